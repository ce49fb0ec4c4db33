"""What is to be written, and what a model has read of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from langwright.base.errors import UserError
from langwright.inference.cache import KVCache
from langwright.inference.sampling import Sampling, Search
from langwright.inference.sinks import Streaming
from langwright.models.model import Frame, Model
from langwright.parts.state import CrossMemory


@dataclass(frozen=True)
class Request:
    """Rows of ids to continue, and how.

    Args:
        rows: the ids of each prompt.
        samplings: one for each row.
        max_new_tokens: the most that are written after each row.
        ends: ids that end a hypothesis of beam search.
        cache: whether keys and values are kept between steps.
        vocabulary: ids from here on are padding of the model's tables and never chosen; None for no limit.
        streaming: which tokens are kept in a text that grows past the context; None for all.
        search: beams, and how they are scored.
        frame: which tokens the model forces or bans; None for none.
        memory: what the decoder of an encoder-decoder reads, a row for each prompt.
    """

    rows: Sequence[Sequence[int]]
    samplings: Sequence[Sampling] = ()
    max_new_tokens: int = 256
    ends: Collection[int] = ()
    cache: bool = True
    vocabulary: int | None = None
    streaming: Streaming | None = None
    search: Search = Search()
    frame: Frame | None = None
    memory: CrossMemory | None = None

    def __post_init__(self) -> None:
        if self.streaming is not None and not self.cache:
            raise UserError("--window needs the cache; leave --no-cache out")


class Reading:
    """Rows that a model reads, and goes on reading as they grow.

    Args:
        model: what reads.
        request: the rows, and what is kept between calls.
        copies: how often each row is read, for beams.
    """

    def __init__(self, model: Model, request: Request, copies: int = 1):
        self._model, self._vocabulary, self._memory = model, request.vocabulary, request.memory
        self._state: KVCache | None = None
        if request.streaming is not None:
            self._state = request.streaming.cache(model)
        elif request.cache:
            self._state = KVCache(len(model.body.blocks), model.body.own_slots())
        self._ids, self._mask = padded([row for row in request.rows for _ in range(copies)], model.device)
        if copies > 1 and self._memory is not None:
            self._memory.keep(torch.arange(len(request.rows), device=model.device).repeat_interleave(copies))

    @torch.inference_mode()
    def logits(self) -> Float[Tensor, "rows vocabulary"]:
        """Of the token after each row; the tokens go in in pieces where the state asks for them."""
        hidden = torch.empty(0)
        for piece in [slice(None)] if self._state is None else self._state.pieces(self._ids.shape[1]):
            mask = None if self._mask is None else self._mask[:, piece]
            hidden = self._model.body(self._ids[:, piece], mask, state=self._state, memory=self._memory)[:, -1]
        return self._model.head(hidden)[:, : self._vocabulary]

    @torch.inference_mode()
    def go_on(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep these rows, in this order, each with a new token after it."""
        ids, mask = self._ids, self._mask
        new = torch.tensor(tokens, device=ids.device)[:, None]
        if list(rows) != list(range(len(ids))):
            kept = torch.tensor(rows, device=ids.device)
            if self._state is not None:
                self._state.keep(kept)
            if self._memory is not None and len(rows) < len(ids):  # beams that change places read the same source
                self._memory.keep(kept)
            ids, mask = ids[kept], None if mask is None else mask[kept]
        if self._state is not None:
            self._ids, self._mask = new, None
            return
        self._ids = torch.cat((ids, new), 1)
        self._mask = None if mask is None else torch.cat((mask, torch.ones_like(new, dtype=torch.bool)), 1)


def padded(
    rows: Sequence[Sequence[int]], device: torch.device, side: Literal["left", "right"] = "left"
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"] | None]:
    """Ids with padding at one side, and what is real; no mask when all are equally long."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1, padding_side=side)
    real = ids >= 0
    return ids.clamp(min=0).to(device), None if real.all() else real.to(device)
