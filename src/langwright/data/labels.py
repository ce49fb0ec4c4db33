"""Texts with labels as rows of a supply."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.data.examples import ExampleRows, Ids, padded
from langwright.objectives.labels import LabelBatch


@dataclass(frozen=True, eq=False)
class LabelExample:
    """One text, or one pair, with its labels.

    Args:
        ids: token ids, special tokens included.
        labels: one number, one for each label, one for each token, or the bounds of a span.
        weights: how much each loss counts, in the shape of the losses.
        types: the type of each token, where the text is a pair.
    """

    ids: Ids
    labels: NDArray[Any]
    weights: NDArray[np.float32]
    types: Ids | None = None


def label_batch(
    rows: Sequence[Sequence[LabelExample]], samples: Ids, width: Callable[[int], int], by_token: bool = False
) -> LabelBatch:
    """Examples, one a row, as tensors, padding (id 0, weight 0) at the right; see `data.examples.batch_of`.

    by_token: whether there is a label for every token.
    """
    examples = [example for (example,) in rows]
    size = width(max(len(example.ids) for example in examples))
    real = padded([[np.ones(len(example.ids), bool)] for example in examples], size)
    columns = size if by_token else 0

    def joined(arrays: list[NDArray[Any]]) -> torch.Tensor:
        return torch.from_numpy(padded([[array] for array in arrays], columns) if arrays[0].ndim else np.stack(arrays))

    types = [np.zeros(len(e.ids), np.int64) if e.types is None else e.types for e in examples]
    return LabelBatch(
        ids=torch.from_numpy(padded([[example.ids] for example in examples], size)),
        labels=joined([example.labels for example in examples]),
        weights=joined([example.weights for example in examples]),
        mask=None if real.all() else torch.from_numpy(real),
        types=torch.from_numpy(padded([[each] for each in types], size)) if any(each.any() for each in types) else None,
        samples=torch.from_numpy(samples),
    )


def label_rows(examples: Sequence[LabelExample], context: int, by_token: bool = False) -> ExampleRows:
    """Examples as rows; they are identified by SHA-256 of their ids and labels. by_token: see `label_batch`."""
    content = hashlib.sha256()
    for each in examples:
        for array in (each.ids, each.labels):
            content.update(array.size.to_bytes(8, "little") + array.tobytes())
    sizes = np.array([len(each.ids) for each in examples], dtype=np.int64)
    identity = {"labels": content.hexdigest()}
    return ExampleRows(
        lambda i, epoch: examples[i], sizes, context, identity, collate=partial(label_batch, by_token=by_token)
    )
