"""Text read in order, for models whose memory is carried from batch to batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langwright.base.errors import UserError
from langwright.data.order import Layout
from langwright.data.shards import Tokens
from langwright.objectives.batch import Models, TokenBatch
from langwright.parts.carry import CarriedState
from langwright.text.tokenizer import Tokenizer

READ_AT_ONCE = 256
"""Tokens in a window of held-out text; what is carried makes the loss the same for any number."""


@dataclass(frozen=True)
class InOrder:
    """Text is read in order. context, crossing: as for `Streams`."""

    context: int
    crossing: bool = False
    predicts_all: ClassVar[bool] = True

    def ready(self, tokenizer: Tokenizer) -> Tokenizer:
        """It needs no special tokens."""
        return tokenizer


@final
class Streams:
    """All tokens as `batch_size` rows of equal length, read side by side, `context` tokens a step.

    Each row goes on where it stopped in the step before, with the memory that the model had there and without its
    gradients: truncated back-propagation through time. At the end all rows begin again, with an empty memory. Where a
    row passes from document to document the memory is emptied, and the first token of a document is no target. What
    does not fill the last step is left out.

    Args:
        tokens: the documents.
        layout: how many rows there are, and which of them are this process's.
        context: inputs of a row in a step, through which gradients flow.
        crossing: take all tokens as one document.

    Raises:
        UserError: There are too few tokens for one step.
    """

    updates = 1

    def __init__(self, tokens: Tokens, layout: Layout, context: int, crossing: bool = False) -> None:
        self._tokens, self._layout, self._context, self._crossing = tokens, layout, context, crossing
        self._begins = tokens.offsets[:1] if crossing else tokens.offsets[:-1]
        self._length = (len(tokens) - 1) // layout.batch_size
        self._steps = self._length // context
        if not self._steps:
            raise UserError(
                f"too little for one batch: {len(tokens)} tokens in {layout.batch_size} rows of {context}; use more, a "
                "smaller --batch-size or a shorter --context"
            )
        self._step, self._state = 0, CarriedState()

    @property
    def windows(self) -> int:
        """The windows of one epoch."""
        return self._steps * self._layout.batch_size

    @property
    def tokens_per_step(self) -> int:
        """Inputs a step over all ranks."""
        return self._context * self._layout.batch_size

    def next(self, models: Models) -> TokenBatch:
        """The batch of the next step, with the memory that the step before left."""
        at = self._step % self._steps
        self._state = CarriedState(self._state.after() if at else {})
        share = self._layout.batch_size // self._layout.world
        rows = np.arange(share, dtype=np.int64) + self._layout.rank * share
        columns = np.arange(-1, self._context + 1) + at * self._context
        places = rows[:, None] * self._length + columns
        documents = np.searchsorted(self._begins, places, side="right")
        ids = torch.from_numpy(self._tokens.ids[places[:, 1:]].astype(np.int64))
        segments = documents[:, 1:-1] - documents[:, (1 if at == 0 else 0), None]
        weights = documents[:, 2:] == documents[:, 1:-1]
        samples = torch.from_numpy(rows + self._step * self._layout.batch_size)
        self._step += 1
        return TokenBatch(
            ids=ids[:, :-1],
            targets=ids[:, 1:],
            weights=torch.from_numpy(weights.astype(np.float32)),
            segments=torch.from_numpy(segments) if segments.any() else None,
            samples=samples,
            state=self._state,
        )

    def state(self) -> dict[str, Tensor]:
        """The step, and the memory of each layer."""
        memory = {f"memory.{layer}": x.cpu() for layer, x in self._state.after().items()}
        return {"step": torch.tensor(self._step), **memory}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self._step = int(state["step"])
        memory = {int(name.split(".")[1]): x for name, x in state.items() if name.startswith("memory.")}
        self._state = CarriedState(memory)

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps to know that a resumed run sees the same samples."""
        layout = {"batch_size": self._layout.batch_size, "context": self._context, "streams": True}
        return {"version": 1, **layout, "tokens": self._tokens.digest, "crossing": self._crossing}


def whole_documents(tokens: Tokens, batch_size: int, context: int, limit: int | None = None) -> Iterator[TokenBatch]:
    """Every document from its first token to its last, the memory carried from window to window.

    Each batch must have been read before the next one is asked for.

    Args:
        tokens: the documents.
        batch_size: documents side by side, the longest first.
        context: inputs of a document in a window.
        limit: about so many windows, of documents that are evenly spread.

    Raises:
        UserError: No document has a target.
    """
    targets = np.diff(tokens.offsets) - 1
    usual = np.flatnonzero(targets > 0)
    if not len(usual):
        raise UserError("too little text to evaluate: no document has two tokens")
    left = int((-(-targets[usual] // context)).sum())
    if limit is not None and limit < left:
        count = max(1, len(usual) * limit // left)
        usual, left = usual[np.arange(count) * len(usual) // count], limit
    order = usual[np.argsort(-targets[usual], kind="stable")]
    for first in range(0, len(order), batch_size):
        state, group = CarriedState(), order[first : first + batch_size]
        for start in range(0, int(targets[group[0]]), context):
            here = group[targets[group] > start]  # the longest come first, so these are the first rows
            state = CarriedState(state.after())[: len(here)]
            yield _window(tokens, here, start, context, state)
            left -= len(here)
            if left <= 0:
                return


def _window(tokens: Tokens, documents: NDArray[np.int64], start: int, context: int, state: CarriedState) -> TokenBatch:
    """The window of some documents that begins with their token `start`, padded at the right."""
    begins, ends = tokens.offsets[documents] + start, tokens.offsets[documents + 1] - 1
    width = min(context, int((ends - begins).max()))
    places = begins[:, None] + np.arange(width + 1)
    real = places[:, :-1] < ends[:, None]
    ids = torch.from_numpy(tokens.ids[np.minimum(places, ends[:, None])].astype(np.int64))
    return TokenBatch(ids[:, :-1], ids[:, 1:], torch.from_numpy(real.astype(np.float32)), state=state)
