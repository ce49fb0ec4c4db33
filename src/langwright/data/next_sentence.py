"""Pairs for BERT's next-sentence objective: two halves of a piece of text, or one and a half of another document's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from langwright.data.examples import Example, ExampleRows, Ids, batch_of, padded
from langwright.data.noise import Masking, uniform
from langwright.data.pieces import Cuts, Framing, cut_documents
from langwright.data.shards import Tokens
from langwright.objectives.language import NextSentenceBatch


@dataclass(frozen=True, eq=False, kw_only=True)
class TextPair(Example):
    """Two texts, some of whose tokens are predicted.

    Args:
        types: 0 for the tokens of the first text and what frames it, 1 for those of the second.
        unrelated: whether the second text is from elsewhere.
    """

    types: Ids
    unrelated: bool


def next_sentence_rows(
    tokens: Tokens, noise: Masking, frame: Framing, context: int, seed: int, around: tuple[int, int]
) -> ExampleRows:
    """Each piece of a document as a pair (Devlin et al., 2018).

    Its second half is, half of the time, that of a piece of another document, or, of a corpus of one document, of
    another piece. Which is a function of seed, epoch and piece, as the masks are.

    Args:
        tokens: the documents.
        noise: of both texts.
        frame: what stands before the first text, and behind each.
        context: inputs a row at most.
        seed: of the noise.
        around: how many ids open and end each document, which are not part of its text.
    """
    special = frame.size + len(frame.last)
    cuts = cut_documents(tokens, lambda length: length + special, context, around)
    bounds = np.searchsorted(cuts.document, np.arange(cuts.document.max(initial=0) + 2))
    longest = -(-int(cuts.lengths.max(initial=0)) // 2)

    def make(piece: int, epoch: int) -> TextPair:
        key, ids = f"{seed}:{epoch}:{piece}", cuts.ids(piece)
        middle = len(ids) // 2
        first, second = ids[:middle], ids[middle:]
        elsewhere = _elsewhere(cuts, bounds, piece, *uniform(key, "next", 2))
        if elsewhere is not None:
            other = cuts.ids(elsewhere)
            second = other[len(other) // 2 :]
        noisy, chosen = noise(np.concatenate((first, second)), key)
        around_both = frame.around(noisy[:middle]), np.concatenate((noisy[middle:], np.array(frame.last, np.int64)))
        at = np.flatnonzero(chosen)
        at = at + len(frame.first) + np.where(at >= middle, len(frame.last), 0)
        return TextPair(
            ids=np.concatenate(around_both),
            targets=np.concatenate((first, second))[chosen],
            at=at,
            types=np.repeat(np.arange(2), [len(side) for side in around_both]),
            unrelated=elsewhere is not None,
        )

    sizes = cuts.lengths // 2 + longest + special
    identity = {"tokens": tokens.digest, "noise": repr((noise, frame, "next"))}
    return ExampleRows(make, sizes, context, identity, collate=_batch)


def _elsewhere(cuts: Cuts, bounds: Ids, piece: int, whether: float, which: float) -> int | None:
    """The piece whose second half takes the place of this one's; None for its own."""
    first, last = bounds[cuts.document[piece] : cuts.document[piece] + 2]
    if last - first == len(cuts.document):
        first, last = piece, piece + 1
    others = len(cuts.document) - (last - first)
    if whether >= 0.5 or others == 0:
        return None
    number = int(which * others)
    return int(number if number < first else number + last - first)


def _batch(rows: Sequence[Sequence[Any]], samples: Ids, width: Callable[[int], int]) -> NextSentenceBatch:
    """Pairs, one a row, as tensors."""
    batch = batch_of(rows, samples, width)
    types = padded([[pair.types for pair in row] for row in rows], batch.ids.shape[1])
    unrelated = torch.tensor([pair.unrelated for row in rows for pair in row], dtype=torch.long)
    return NextSentenceBatch(**vars(batch), types=torch.from_numpy(types), unrelated=unrelated)
