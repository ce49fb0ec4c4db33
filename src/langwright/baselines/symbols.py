"""What a model of sequences is made of: the bytes of a text, or its words."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "<unk>"
"""Every word that the vocabulary does not have."""

Ids = NDArray[np.int64]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: what stands between blanks."""
    return text.lower().split()


def sentences_of(text: str) -> list[str]:
    """The lines of a text; each is one sentence to a model of sentences. A line break at the end begins none."""
    return text.removesuffix("\n").split("\n")


class Bytes:
    """The 256 bytes of texts in UTF-8, as numbers and back."""

    size = 256

    def encode(self, text: str) -> Ids:
        """The bytes of a text."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some bytes; what is not UTF-8 is replaced."""
        return bytes(ids).decode(errors="replace")

    def spelt(self, symbol: int) -> str:
        """One byte as Python spells it."""
        return ascii(chr(symbol)) if symbol < 128 else f"0x{symbol:02x}"


@dataclass(frozen=True)
class Words:
    """The words of a training text, the frequent ones first after `UNKNOWN` for all others, as numbers and back."""

    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, sentences: Iterable[str]) -> "Words":
        """The vocabulary of some sentences."""
        counts = Counter(word for sentence in sentences for word in words_of(sentence))
        del counts[UNKNOWN]
        return cls((UNKNOWN, *sorted(counts, key=lambda word: (-counts[word], word))))

    @property
    def size(self) -> int:
        """Words, the unknown one included."""
        return len(self.vocabulary)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary)}

    def encode(self, text: str) -> Ids:
        """The number of each word, 0 where it is unknown."""
        return np.array([self._numbers.get(word, 0) for word in words_of(text)], np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The words with blanks between them."""
        return " ".join(self.vocabulary[number] for number in ids)

    def spelt(self, symbol: int) -> str:
        """The word."""
        return self.vocabulary[symbol]


Symbols = Bytes | Words
"""What is a symbol to a model."""
