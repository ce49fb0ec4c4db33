"""What a training run learns from and is measured on: rows of data, their batches, a run's supply."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from langwright.base.errors import UserError
from langwright.data.order import Layout
from langwright.objectives.batch import Batch, Models
from langwright.text.tokenizer import Tokenizer

Row = dict[str, Any]
RECORD_VERSION = 1


@runtime_checkable
class Sized(Protocol):
    """What is known of training batches before any is made."""

    @property
    def windows(self) -> int:
        """The samples of one epoch."""

    @property
    def tokens_per_step(self) -> int:
        """Real inputs a step over all ranks, on average."""

    def record(self) -> Row:
        """What a checkpoint keeps to know that a resumed run sees the same samples."""


@runtime_checkable
class StepBatches(Sized, Protocol):
    """An endless row of training batches, each a pure function of its step; they are made ahead of time."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""


@runtime_checkable
class StatefulBatches(Sized, Protocol):
    """Training batches that depend on what came before: rollouts of the models, carried recurrent states.

    They are never made ahead of time, and are saved with the run.
    """

    @property
    def updates(self) -> int:
        """Updates of the weights in a step of the run, each with a batch of its own; 1 but for rollouts."""

    def next(self, models: Models) -> Batch:
        """The batch of the next update, given the models by name as they are now."""

    def state(self) -> dict[str, Tensor]:
        """What the next batches depend on, besides the models and PyTorch's random state."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""


@dataclass(frozen=True)
class Supply:
    """The data of a run.

    Args:
        tokenizer: of the text.
        batches: what is trained on.
        held_out: batches with every held-out target once, or with those of at most so many windows, evenly spread.
        held_out_tokens: how many targets that is.
        held_out_bytes: UTF-8 bytes of the held-out text, where every one of them is predicted once; else None.
        record: what identifies the data; its "hash" is part of the run's identity.
        prompt: a text or ids from which a sample of the model's writing goes on; None for no samples.
        parts: of a mixture, the held-out batches of each corpus.
        drawn: what a row of the metrics says of the data of so many steps.
    """

    tokenizer: Tokenizer
    batches: StepBatches | StatefulBatches
    held_out: Callable[[int | None], Iterator[Any]]
    held_out_tokens: int
    held_out_bytes: int | None
    record: Row
    prompt: str | tuple[int, ...] | None = ""
    parts: Mapping[str, Callable[[], Iterator[Any]]] = field(default_factory=dict)
    drawn: Callable[[int], Row] = lambda step: {}


@runtime_checkable
class Rows(Protocol):
    """Numbered rows of tokens: windows of text, conversations, examples."""

    context: int
    """Inputs a row at most."""

    def __len__(self) -> int:
        """How many rows there are."""

    @property
    def inputs(self) -> int:
        """Real inputs of all rows together."""

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Real inputs of each of some rows."""

    def batch(self, numbers: NDArray[np.int64], samples: NDArray[np.int64], fixed: bool = False) -> Batch:
        """Some rows as tensors, padding (id 0, weight 0) at the right.

        Args:
            numbers: which rows.
            samples: the number of each as a sample of the run, which counts over epochs.
            fixed: whether all rows are as wide as the context; else the longest decides.
        """

    def record(self) -> dict[str, Any]:
        """What identifies the rows."""


@final
class Batches:
    """An endless row of training batches: `batch(step)` is the same whenever, and however often, it is asked for.

    Args:
        rows: what is seen.
        layout: how rows become batches. UserError where they are too few for one.
        by_length: whether rows of about one length share a batch.
    """

    def __init__(self, rows: Rows, layout: Layout, by_length: bool = False) -> None:
        self._rows, self._layout, self._by_length = rows, layout, by_length
        if len(rows) < layout.batch_size:
            raise UserError(
                f"too little for one batch: {len(rows)} rows of {rows.context} tokens, and a batch needs "
                f"{layout.batch_size}; use more, a smaller --batch-size or a shorter --context"
            )

    @property
    def windows(self) -> int:
        """The number of rows, which is the samples of one epoch."""
        return len(self._rows)

    @property
    def tokens_per_step(self) -> int:
        """Real inputs a step over all ranks, on average."""
        return max(1, round(self._layout.batch_size * self._rows.inputs / len(self._rows)))

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        layout, rows = self._layout, self._rows
        samples, numbers = (
            layout.gathered(step, len(rows), rows.lengths) if self._by_length else layout.rows(step, len(rows))
        )
        return self._rows.batch(numbers, samples, self._layout.fixed)

    def record(self) -> dict[str, Any]:
        """What a training checkpoint keeps to know that a resumed run sees the same samples."""
        layout: Row = {"batch_size": self._layout.batch_size, "seed": self._layout.seed}
        if self._by_length:
            layout["by_length"] = True
        return {"version": RECORD_VERSION, "context": self._rows.context, **layout, **self._rows.record()}


def evaluation_batches(rows: Rows, batch_size: int, limit: int | None = None) -> Iterator[Any]:
    """Every row once.

    The longest come first, so that those of a batch are about as long, and as wide as the longest of them.

    Args:
        rows: what is measured.
        batch_size: rows in a batch; the last one may be smaller.
        limit: at most so many rows, evenly spread over all.

    Raises:
        UserError: There is no row.
    """
    if not len(rows):
        raise UserError("too little text to evaluate: no document has two tokens")
    count = min(limit or len(rows), len(rows))
    chosen = np.arange(count, dtype=np.int64) * len(rows) // count
    chosen = chosen[np.argsort(-rows.lengths(chosen), kind="stable")]
    parts = (chosen[start : start + batch_size] for start in range(0, count, batch_size))
    return (rows.batch(numbers, numbers) for numbers in parts)
