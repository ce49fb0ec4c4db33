"""Tokens made by hand."""

import itertools
from collections.abc import Sequence

import numpy as np

from langwright.data.shards import Tokens


def tokens_of(documents: Sequence[Sequence[int]]) -> Tokens:
    """Documents of ids as tokens in memory."""
    lengths = [len(document) for document in documents]
    return Tokens(
        ids=np.array([i for document in documents for i in document], np.uint16),
        offsets=np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64),
        bytes=np.array(lengths, np.int64),
        tokenizer="0" * 64,
        digest="1" * 64,
    )


def documents_of(tokens: Tokens) -> list[list[int]]:
    """The ids of each document."""
    return [tokens.ids[a:b].tolist() for a, b in itertools.pairwise(tokens.offsets.tolist())]
