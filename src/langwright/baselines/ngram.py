"""An n-gram language model of bytes or words: the baseline that knows only the last few of them.

Interpolated modified Kneser-Ney smoothing (Chen and Goodman, "An empirical study of smoothing techniques for
language modeling", 1998). For a context c and a next symbol w, from the longest context to the empty one,

    P(w | c) = own(c w) + backoff(c) * P(w | c without its oldest symbol)
    own(c w) = (count(c w) - D(count(c w))) / count(c)
    backoff(c) = sum over seen w of D(count(c w)) / count(c)

and below the empty context every symbol is equally likely. Shorter contexts count in how many different longer
n-grams they occur, not how often: a symbol that follows a thousand times, but always the same symbol, is a poor guess
elsewhere.

An n-gram is one 64-bit integer, nine bits a symbol if symbols are bytes, the newest lowest. Sorted, n-grams of one
context stand together, so counting is sorting and looking up is bisection: there is no Python loop over symbols.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BYTES = 256
"""Symbols of the alphabet of bytes. Above any alphabet are the end of a document, which is predicted like a symbol, and
the beginning, which is only seen in contexts."""

_BLOCK = 1 << 23  # symbols counted at once, or one document: about 0.3 GB beside the distinct n-grams
_FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])  # discounts where counts are too few to estimate them; as in KenLM

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]
Text = bytes | NDArray[np.int64]
"""A document: bytes, or the numbers of its words."""


class _Level(NamedTuple):
    """What one n-gram length knows: `own` beside the sorted `grams`, `backoff` beside the sorted `contexts`."""

    grams: Keys
    own: Floats
    contexts: Keys
    backoff: Floats


@dataclass(frozen=True)
class NGram:
    """A trained model; build it with `NGram.train`. It is proper: the next symbol's probabilities sum to one.

    Args:
        levels: From one symbol to `order` symbols.
        alphabet: How many symbols there are, without the end of a document.
    """

    levels: tuple[_Level, ...]
    alphabet: int = BYTES

    @classmethod
    def train(cls, documents: Iterable[Text], order: int = 6, alphabet: int = BYTES) -> "NGram":
        """Count n-grams of up to `order` symbols inside each document and estimate the smoothing.

        12 MB of source code at order 6 take about a second and 0.3 GB on one core; the model itself takes
        about 24 bytes for every distinct n-gram of any length.

        Args:
            documents: Bytes, or numbers below `alphabet`.
            order: Symbols of an n-gram, from 1 to `largest_order(alphabet)`.
            alphabet: How many symbols there are.
        """
        bits = _bits(alphabet)
        grams, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        for block in _blocks(documents, order, alphabet):
            more, more_counts = np.unique(block, return_counts=True)
            grams, positions = np.unique(np.concatenate([grams, more]), return_inverse=True)
            counts = np.bincount(positions, np.concatenate([counts, more_counts])).astype(np.int64)
        levels = [_level(grams, counts, bits)]
        for length in range(order - 1, 0, -1):
            grams, counts = np.unique(_suffix(grams, length, bits), return_counts=True)
            levels.append(_level(grams, counts, bits))
        return cls(tuple(reversed(levels)), alphabet)

    @property
    def order(self) -> int:
        """How many symbols an n-gram has: it sees one fewer before it guesses."""
        return len(self.levels)

    def bits_per_byte(self, documents: Iterable[Text]) -> float:
        """Bits the model needs for the documents, the end of each included, divided by their symbols."""
        bits, size = self.bits(documents)
        return bits / size

    def bits(self, documents: Iterable[Text]) -> tuple[float, int]:
        """Bits the model needs for the documents, the end of each included, and how many symbols they have without."""
        bits, size = 0.0, 0
        for block in _blocks(documents, self.order, self.alphabet):
            grams, counts = np.unique(block, return_counts=True)
            bits -= float(counts @ np.log2(self._probabilities(grams)))
            size += int(counts @ (_suffix(grams, 1, _bits(self.alphabet)) != self.alphabet))
        return bits, size

    def chain(self, document: Text) -> Floats:
        """The probability of each symbol of a document given those before it, and of its end: the chain rule."""
        return self._probabilities(_grams([document], self.order, self.alphabet))

    def distribution(self, context: Text) -> Floats:
        """The probabilities [alphabet + 1] of what follows `context`, the document so far; the last is its end."""
        symbols = [*[self.alphabet + 1] * (self.order - 1), *map(int, context)][len(context) :]
        bits = _bits(self.alphabet)
        key = reduce(lambda key, symbol: key << bits | symbol, symbols, 0)
        return self._probabilities(np.uint64(key << bits) | np.arange(self.alphabet + 1, dtype=np.uint64))

    def generate(self, prompt: bytes, max_bytes: int, rng: np.random.Generator, temperature: float = 1.0) -> bytes:
        """Continue a document that begins with `prompt`; returns the new bytes alone, fewer when the model ends it.

        temperature: above 0; below 1 the likely bytes become likelier still.
        """
        return bytes(self.sample(rng, max_bytes, prompt, temperature))

    def sample(self, rng: np.random.Generator, longest: int, prompt: Text = b"", temperature: float = 1.0) -> list[int]:
        """Up to `longest` symbols that follow `prompt`; fewer when the model ends the document."""
        symbols = [*map(int, prompt)]
        start = len(symbols)
        while len(symbols) < start + longest:
            cumulative = np.cumsum(self.distribution(np.array(symbols[-self.order :])) ** (1 / temperature))
            symbol = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
            if symbol == self.alphabet:
                break
            symbols.append(symbol)
        return symbols[start:]

    def _probabilities(self, grams: Keys) -> Floats:
        """The probability of the last symbol of each n-gram, given the ones before it."""
        bits = _bits(self.alphabet)
        probabilities = np.full(grams.shape, 1 / (self.alphabet + 1))
        for length, level in enumerate(self.levels, start=1):
            keys = _suffix(grams, length, bits)
            found, index = _find(level.contexts, _context(keys, bits))
            probabilities[found] *= level.backoff[index]
            found, index = _find(level.grams, keys)
            probabilities[found] += level.own[index]
        return probabilities


def largest_order(alphabet: int) -> int:
    """The longest n-grams of so many symbols that fit into 64 bits: 7 of bytes, 4 of ten thousand words."""
    return 64 // _bits(alphabet)


def _bits(alphabet: int) -> int:
    """Bits of a symbol, of the end and of the beginning."""
    return (alphabet + 1).bit_length()


def _blocks(documents: Iterable[Text], order: int, alphabet: int) -> Iterator[Keys]:
    """Every n-gram that ends at a symbol or at the end of a document, once, in blocks of bounded size."""
    waiting: list[Text] = []
    size = 0
    for document in documents:
        waiting.append(document)
        size += len(document)
        if size >= _BLOCK:
            yield _grams(waiting, order, alphabet)
            waiting, size = [], 0
    if waiting:
        yield _grams(waiting, order, alphabet)


def _grams(documents: Iterable[Text], order: int, alphabet: int) -> Keys:
    """Every run of `order` symbols that does not end in the beginning, which is never predicted.

    A document has as many beginnings before it as a context holds, and one end after it.
    """
    begin, end = np.full(order - 1, alphabet + 1, np.uint32), np.array([alphabet], np.uint32)
    texts = (np.frombuffer(text, np.uint8) if isinstance(text, bytes) else text.astype(np.uint32) for text in documents)
    stream = np.concatenate([part for text in texts for part in (begin, text, end)])
    grams, bits = np.zeros(stream.size - order + 1, np.uint64), _bits(alphabet)
    for start in range(order):
        grams <<= np.uint64(bits)
        grams |= stream[start : start + grams.size]
    predicted: Keys = grams[_suffix(grams, 1, bits) != alphabet + 1]
    return predicted


def _level(grams: Keys, counts: NDArray[np.int64], bits: int) -> _Level:
    contexts, starts = np.unique(_context(grams, bits), return_index=True)
    totals = np.add.reduceat(counts, starts)
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    owners = np.repeat(totals, np.diff(starts, append=grams.size))
    return _Level(grams, (counts - discounts) / owners, contexts, np.add.reduceat(discounts, starts) / totals)


def _discounts(counts: NDArray[np.int64]) -> Floats:
    """What to take from a count of 0, 1, 2, and 3 or more (Chen and Goodman, equation 26).

    The estimate for k needs an n-gram that occurs once, one that occurs k times, and a result above zero (or nothing
    would be left for the symbols not seen); else it is the usual constant.
    """
    seen = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if not seen[0]:
        return _FALLBACK
    kept = np.arange(1, 4)
    scale = seen[0] / (seen[0] + 2 * seen[1])
    estimates = kept - (kept + 1) * scale * seen[1:] / np.maximum(seen[:-1], 1)
    usable = (seen[:-1] > 0) & (estimates > 0)
    return np.concatenate([[0.0], np.where(usable, estimates, _FALLBACK[1:])])


def _find(values: Keys, wanted: Keys) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of `wanted` stand in the sorted `values`, and where those that do stand."""
    positions = np.searchsorted(values, wanted)
    found = values[np.minimum(positions, values.size - 1)] == wanted
    return found, positions[found]


def _suffix(grams: Keys, length: int, bits: int) -> Keys:
    """The newest `length` symbols of each n-gram."""
    return np.bitwise_and(grams, np.uint64((1 << bits * length) - 1))


def _context(grams: Keys, bits: int) -> Keys:
    """Each n-gram without its newest symbol."""
    return np.right_shift(grams, np.uint64(bits))
