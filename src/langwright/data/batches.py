"""Batches of rows, whatever kind of data they came from, each a pure function of its step."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.base.errors import UserError
from langwright.data.order import Layout, row_width
from langwright.objectives.batch import TokenBatch

RECORD_VERSION = 1


@runtime_checkable
class Rows(Protocol):
    """Numbered rows of tokens: windows of text, or conversations."""

    context: int
    """Inputs a row at most."""

    def __len__(self) -> int:
        """How many rows there are."""

    @property
    def inputs(self) -> int:
        """Real inputs of all rows together."""

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Real inputs of each of some rows."""

    def batch(self, numbers: NDArray[np.int64], width: int) -> TokenBatch:
        """Some rows as tensors so wide, padding (id 0, weight 0) at the right; their numbers are the samples."""

    def record(self) -> dict[str, Any]:
        """What identifies the rows."""


@final
class Batches:
    """An endless row of training batches: `batch(step)` is the same whenever, and however often, it is asked for.

    Args:
        rows: what is seen.
        layout: how rows become batches. UserError where they are too few for one.
    """

    def __init__(self, rows: Rows, layout: Layout) -> None:
        self._rows, self._layout = rows, layout
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

    def batch(self, step: int) -> TokenBatch:
        """The batch of a step, counted from 0."""
        samples, numbers = self._layout.rows(step, len(self._rows))
        width = self._rows.context if self._layout.fixed else _width(self._rows, numbers)
        return replace(self._rows.batch(numbers, width), samples=torch.from_numpy(samples))

    def record(self) -> dict[str, Any]:
        """What a training checkpoint keeps to know that a resumed run sees the same samples."""
        layout = {"batch_size": self._layout.batch_size, "seed": self._layout.seed}
        return {"version": RECORD_VERSION, "context": self._rows.context, **layout, **self._rows.record()}


def evaluation_batches(rows: Rows, batch_size: int, limit: int | None = None) -> Iterator[TokenBatch]:
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
    return (rows.batch(numbers, _width(rows, numbers)) for numbers in parts)


def _width(rows: Rows, numbers: NDArray[np.int64]) -> int:
    return row_width(int(rows.lengths(numbers).max()), rows.context)
