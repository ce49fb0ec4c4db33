"""Batches of windows for causal language modelling, each a pure function of its step."""

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.base.errors import UserError
from langwright.data.order import samples_of_step, windows_of
from langwright.data.shards import Tokens
from langwright.data.windows import Places, Windows, row_width
from langwright.objectives.batch import TokenBatch

RECORD_VERSION = 1


@final
class CausalBatches:
    """An endless row of training batches: `batch(step)` is the same whenever, and however often, it is asked for."""

    def __init__(
        self,
        tokens: Tokens,
        context: int,
        batch_size: int,
        seed: int,
        *,
        crossing: bool = False,
        fixed: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Lay out the windows.

        context: inputs a window.
        batch_size: windows a step, over all ranks.
        crossing: let windows run over the bounds of documents.
        fixed: every row is `context` wide, for compiled code; else the longest row of a batch decides.
        rank, world: this process yields its share, the rows `rank * batch_size / world` onwards.
        Raises UserError when the text has fewer windows than a batch.
        """
        samples_of_step(0, batch_size, rank, world)
        self._tokens = tokens
        self._windows = Windows(tokens.offsets, context, crossing=crossing)
        self._context, self._batch_size, self._seed, self._crossing = context, batch_size, seed, crossing
        self._fixed = fixed
        self._rank, self._world = rank, world
        if self.windows < batch_size:
            raise UserError(
                f"too little text for one batch: {len(tokens)} tokens in {tokens.documents} documents give "
                f"{self.windows} windows of {context}, and a batch needs {batch_size}; "
                f"use more text, a smaller batch or a shorter context"
            )

    @property
    def windows(self) -> int:
        """The number of windows, which is the samples of one epoch."""
        return len(self._windows)

    @property
    def tokens_per_step(self) -> int:
        """Real inputs a step over all ranks, on average."""
        return max(1, round(self._batch_size * self._windows.targets / self.windows))

    def batch(self, step: int) -> TokenBatch:
        """The batch of a step, counted from 0; every real target weighs 1, padding 0 (it holds id 0, at the right)."""
        samples = samples_of_step(step, self._batch_size, self._rank, self._world)
        places = self._windows.places(windows_of(samples, self.windows, self._seed))
        width = self._context if self._fixed else row_width(int(places.lengths.max()), self._context)
        return _gather(self._tokens, places, width, np.zeros_like(places.repeated), samples)

    def record(self) -> dict[str, Any]:
        """What a training checkpoint keeps to know that a resumed run sees the same samples."""
        return {
            "version": RECORD_VERSION,
            "tokens": self._tokens.digest,
            "context": self._context,
            "batch_size": self._batch_size,
            "seed": self._seed,
            "crossing": self._crossing,
        }


def evaluation_batches(tokens: Tokens, context: int, batch_size: int, limit: int | None = None) -> Iterator[TokenBatch]:
    """Every target of every document exactly once, in windows that do not overlap.

    A document's last window is shifted back to be full; the targets that the window before counts weigh 0 there.
    The longest windows come first, so that those of a batch are about as long, and as wide as the longest of them.
    limit: at most this many windows, evenly spread over the text. The last batch may be smaller.
    Raises UserError when no document has a target.
    """
    windows = Windows(tokens.offsets, context)
    if not len(windows):
        raise UserError(f"too little text to evaluate: {len(tokens)} tokens in {tokens.documents} documents")
    count = len(windows) if limit is None else min(limit, len(windows))
    chosen = np.arange(count, dtype=np.int64) * len(windows) // count
    return _batches_of(tokens, windows, chosen, context, batch_size)


def _batches_of(
    tokens: Tokens, windows: Windows, chosen: NDArray[np.int64], context: int, batch_size: int
) -> Iterator[TokenBatch]:
    chosen = chosen[np.argsort(-windows.places(chosen).lengths, kind="stable")]
    for start in range(0, len(chosen), batch_size):
        numbers = chosen[start : start + batch_size]
        places = windows.places(numbers)
        yield _gather(tokens, places, row_width(int(places.lengths.max()), context), places.repeated, numbers)


def _gather(
    tokens: Tokens, places: Places, width: int, uncounted: NDArray[np.int64], samples: NDArray[np.int64]
) -> TokenBatch:
    """The windows as tensors `width` wide; the first `uncounted` targets of each row weigh nothing."""
    column = np.arange(width + 1)
    real = column[:-1] < places.lengths[:, None]
    last = (places.starts + places.lengths)[:, None]
    ids = tokens.ids[np.minimum(places.starts[:, None] + column, last)].astype(np.int64)
    weights = real & (column[:-1] >= uncounted[:, None])
    return TokenBatch(
        ids=torch.from_numpy(ids[:, :-1] * real),
        targets=torch.from_numpy(ids[:, 1:] * real),
        weights=torch.from_numpy(weights.astype(np.float32)),
        mask=None if real.all() else torch.from_numpy(real),
        samples=torch.from_numpy(samples),
    )
