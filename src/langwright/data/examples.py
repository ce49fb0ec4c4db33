"""Examples of texts and of pairs as rows, several of which may be packed into one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.data.order import row_width
from langwright.data.packing import pack
from langwright.objectives.batch import Batch, PairBatch, TokenBatch

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Example:
    """One text, or one source and its target.

    Args:
        ids: what the model reads; of a pair, what its decoder reads.
        targets: what each of `ids` predicts, or what each of `at` does.
        weights: how much each target counts; 1 unless given.
        at: the positions that predict, where they are few.
        source: what the encoder reads, of a pair.
    """

    ids: Ids
    targets: Ids
    weights: NDArray[Any] | None = None
    at: Ids | None = None
    source: Ids | None = None


def batch_of(rows: Sequence[Sequence[Example]], samples: Ids, width: Callable[[int], int]) -> TokenBatch | PairBatch:
    """Rows of examples as tensors, padding (id 0, weight 0) at the right.

    Where a row holds several, each is a segment of its own, with positions from 0. Padding is a segment too: of a
    pair's target it is the last one's, so that it has something to read.

    Args:
        rows: the examples that share each row, all texts or all pairs.
        samples: the sample number of each row.
        width: how wide rows are whose longest has so many tokens.
    """
    packed = any(len(row) > 1 for row in rows)
    first = rows[0][0]
    ids, segments = _side([[example.ids for example in row] for row in rows], width)
    targets = padded([[example.targets for example in row] for row in rows], ids.shape[1] if first.at is None else 0)
    weights = [[np.ones(len(e.targets)) if e.weights is None else e.weights for e in row] for row in rows]
    real = segments > 0
    common: dict[str, Any] = {
        "ids": torch.from_numpy(ids),
        "targets": torch.from_numpy(targets),
        "weights": torch.from_numpy(padded(weights, targets.shape[1]).astype(np.float32)),
        "segments": torch.from_numpy(segments) if packed else None,
        "samples": torch.from_numpy(samples),
    }
    if first.source is None:
        starts = [np.cumsum([0, *(len(example.ids) for example in row)]) for row in rows]
        at = positions = None
        if first.at is not None:
            moved = [[e.at + s for e, s in zip(row, of, strict=False)] for row, of in zip(rows, starts, strict=True)]
            at = torch.from_numpy(padded(moved, targets.shape[1]))
        if packed:  # the state could count them, in a square of the row
            counted = padded([[np.arange(len(example.ids)) for example in row] for row in rows], ids.shape[1])
            positions = torch.from_numpy(counted)
        mask = None if packed or real.all() else torch.from_numpy(real)
        return TokenBatch(**common, mask=mask, positions=positions, at=at)
    source, of = _side([[example.source for example in row] for row in rows], width)
    if packed:
        last = segments.max(1, keepdims=True)
        common["segments"] = torch.from_numpy(np.where(real, segments, last))
    known = of > 0
    return PairBatch(
        torch.from_numpy(source),
        **common,
        source_mask=None if known.all() else torch.from_numpy(known),
        source_segments=torch.from_numpy(np.where(known, of, of.max(1, keepdims=True))) if packed else None,
    )


Collate = Callable[[Sequence[Sequence[Any]], Ids, Callable[[int], int]], Batch]
"""(rows of examples, samples, how wide rows are whose longest has so many tokens) -> their batch."""


@final
class ExampleRows:
    """Numbered examples as rows of a supply.

    Args:
        make: (number, epoch) -> an example; its noise is new in each epoch.
        sizes: the inputs of each example, at most; those of the longer side of a pair.
        context: inputs a row at most.
        identity: what identifies the examples.
        packing: several examples share a row, none of which sees another; which ones is settled here, once.
        collate: makes the batch of rows of examples, as `batch_of` does.
    """

    def __init__(
        self,
        make: Callable[[int, int], Any],
        sizes: Ids,
        context: int,
        identity: dict[str, Any],
        packing: bool = False,
        collate: Collate = batch_of,
    ) -> None:
        self._make, self._sizes, self.context, self._identity = make, sizes, context, identity
        self._collate = collate
        self.inputs = int(sizes.sum())
        self._rows = pack(sizes.tolist(), context) if packing else None

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._sizes) if self._rows is None else len(self._rows)

    def lengths(self, numbers: Ids) -> Ids:
        """Inputs of each of some rows, at most."""
        if self._rows is None:
            return self._sizes[numbers]
        return np.array([self._sizes[self._rows[n]].sum() for n in numbers.tolist()], dtype=np.int64)

    def batch(self, numbers: Ids, samples: Ids, fixed: bool = False) -> Batch:
        """Some rows as tensors; see `data.supply.Rows`."""
        members = [self._members(number) for number in numbers.tolist()]
        epochs = (samples // len(self)).tolist()
        rows = [[self._make(i, epoch) for i in row] for row, epoch in zip(members, epochs, strict=True)]
        return self._collate(rows, samples, lambda longest: self.context if fixed else row_width(longest, self.context))

    def record(self) -> dict[str, Any]:
        """What identifies the rows."""
        return {**self._identity, "packing": self._rows is not None}

    def _members(self, number: int) -> list[int]:
        """The examples that share a row."""
        return [number] if self._rows is None else self._rows[number]


def _side(rows: list[list[Any]], width: Callable[[int], int]) -> tuple[Ids, Ids]:
    """Padded ids, and the number of each token's example in its row from 1, 0 for padding."""
    size = width(max(sum(map(len, row)) for row in rows))
    numbers = [[np.full(len(part), number) for number, part in enumerate(row, start=1)] for row in rows]
    return padded(rows, size), padded(numbers, size)


def padded(rows: list[list[Any]], width: int) -> Any:
    """Each row's parts one after the other, zeros at the right; at least `width` wide."""
    joined = [np.concatenate(row) for row in rows]
    made = np.zeros((len(rows), max(width, *(len(row) for row in joined))), joined[0].dtype)
    for row, values in zip(made, joined, strict=True):
        row[: len(values)] = values
    return made
