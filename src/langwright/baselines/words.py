"""Texts as words, and words as numbers: what word vectors are learnt from."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langwright.base.errors import UserError

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def split_words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits, with apostrophes inside; about 13 MB/s."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True, eq=False)
class EncodedWords:
    """The words of a corpus as numbers.

    Args:
        words: the vocabulary, the most frequent first.
        counts: how often each occurs [V].
        ids: the words of all documents in order [N]; rare ones are left out, and between documents stands V, no word.
    """

    words: tuple[str, ...]
    counts: NDArray[np.int64]
    ids: NDArray[np.int32]


def encode_words(
    texts: Iterable[str], min_count: int, gap: int, advance: Callable[[int], None] = lambda count: None
) -> EncodedWords:
    """Number the words of the texts, one document each, in one pass; four bytes a word are in memory.

    Args:
        texts: the documents.
        min_count: words that occur less often are left out.
        gap: how many times V stands after a document.
        advance: told of the characters that were read.

    Raises:
        UserError: Fewer than two words are left.
    """
    numbers = defaultdict[str, int](itertools.count().__next__)
    parts = []
    for text in texts:
        parts.append(np.fromiter(map(numbers.__getitem__, split_words(text)), np.int32))
        advance(len(text))
    counts = sum((np.bincount(part, minlength=len(numbers)) for part in parts), np.zeros(len(numbers), np.int64))
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= min_count]
    if len(order) < 2:
        raise UserError(
            f"--min-count {min_count}: {len(order)} of {len(numbers)} words occur as often; lower it, or give more text"
        )
    rank = np.full(len(numbers), -1, np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    between = np.full(gap, len(order), np.int32)
    ids = np.concatenate([piece for part in parts for piece in (rank[part][rank[part] >= 0], between)])
    known = list(numbers)
    return EncodedWords(tuple(known[i] for i in order), counts[order], ids)
