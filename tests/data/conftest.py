"""Tokens made by hand."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

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


@pytest.fixture
def make_tokens() -> Callable[[Sequence[Sequence[int]]], Tokens]:
    return tokens_of
