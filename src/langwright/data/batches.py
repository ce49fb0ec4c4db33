"""Batches of windows for causal language modelling, each a pure function of its step."""

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.base.errors import UserError
from langwright.data.order import Layout
from langwright.data.shards import Tokens
from langwright.data.windows import Places, Windows
from langwright.objectives.batch import TokenBatch

RECORD_VERSION = 1


@final
class CausalBatches:
    """An endless row of training batches: `batch(step)` is the same whenever, and however often, it is asked for."""

    def __init__(self, tokens: Tokens, layout: Layout, *, crossing: bool = False) -> None:
        """Lay out the windows. crossing: let windows run over the bounds of documents."""
        self._tokens, self._layout, self._crossing = tokens, layout, crossing
        self._windows = Windows(tokens.offsets, layout.context, crossing=crossing)
        layout.check(self.windows, f"{len(tokens)} tokens in {tokens.documents} documents")

    @property
    def windows(self) -> int:
        """The number of windows, which is the samples of one epoch."""
        return len(self._windows)

    @property
    def tokens_per_step(self) -> int:
        """Real inputs a step over all ranks, on average."""
        return max(1, round(self._layout.batch_size * self._windows.targets / self.windows))

    def batch(self, step: int) -> TokenBatch:
        """The batch of a step, counted from 0; every real target weighs 1, padding 0 (it holds id 0, at the right)."""
        samples, numbers = self._layout.rows(step, self.windows)
        places = self._windows.places(numbers)
        width = self._layout.width(int(places.lengths.max()))
        return _gather(self._tokens, places, width, np.zeros_like(places.repeated), samples)

    def record(self) -> dict[str, Any]:
        """What a training checkpoint keeps to know that a resumed run sees the same samples."""
        return {
            "version": RECORD_VERSION,
            "tokens": self._tokens.digest,
            **self._layout.record(),
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
    chosen = chosen[np.argsort(-windows.places(chosen).lengths, kind="stable")]
    width = Layout(context, batch_size, 0).width

    def batches() -> Iterator[TokenBatch]:  # errors come before the first batch is asked for
        for start in range(0, len(chosen), batch_size):
            numbers = chosen[start : start + batch_size]
            places = windows.places(numbers)
            yield _gather(tokens, places, width(int(places.lengths.max())), places.repeated, numbers)

    return batches()


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
