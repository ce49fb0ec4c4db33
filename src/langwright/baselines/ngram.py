"""A byte-level n-gram language model: the baseline that knows only the last few bytes.

Interpolated modified Kneser-Ney smoothing (Chen and Goodman, "An empirical study of smoothing techniques for
language modeling", 1998). For a context c and a next symbol w, from the longest context to the empty one,

    P(w | c) = own(c w) + backoff(c) * P(w | c without its oldest symbol)
    own(c w) = (count(c w) - D(count(c w))) / count(c)
    backoff(c) = sum over seen w of D(count(c w)) / count(c)

and below the empty context every symbol is equally likely. Shorter contexts count in how many different longer
n-grams they occur, not how often: a symbol that follows a thousand times, but always the same symbol, is a poor guess
elsewhere.

An n-gram is one 64-bit integer, nine bits a symbol, the newest lowest. Sorted, n-grams of one context stand together,
so counting is sorting and looking up is bisection: there is no Python loop over bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SYMBOLS = 257
END = 256  # what follows the last byte of a document
BEGIN = 257  # what precedes the first byte; seen in contexts, never predicted

_BITS = 9
_BLOCK = 1 << 23  # bytes counted at once, or one document: about 0.3 GB beside the distinct n-grams
_FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])  # discounts where counts are too few to estimate them; as in KenLM

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]


class _Level(NamedTuple):
    """What one n-gram length knows: `own` beside the sorted `grams`, `backoff` beside the sorted `contexts`."""

    grams: Keys
    own: Floats
    contexts: Keys
    backoff: Floats


@dataclass(frozen=True)
class NGram:
    """A trained model; build it with `NGram.train`. It is proper: the next symbol's 257 probabilities sum to one."""

    levels: tuple[_Level, ...]  # from one symbol to `order` symbols

    @classmethod
    def train(cls, documents: Iterable[bytes], order: int = 6) -> "NGram":
        """Count n-grams of up to `order` symbols (1 to 7) inside each document and estimate the smoothing.

        12 MB of source code at order 6 take about a second and 0.3 GB on one core; the model itself takes
        about 24 bytes for every distinct n-gram of any length.
        """
        grams, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        for block in _blocks(documents, order):
            more, more_counts = np.unique(block, return_counts=True)
            grams, positions = np.unique(np.concatenate([grams, more]), return_inverse=True)
            counts = np.bincount(positions, np.concatenate([counts, more_counts])).astype(np.int64)
        levels = [_level(grams, counts)]
        for length in range(order - 1, 0, -1):
            grams, counts = np.unique(_suffix(grams, length), return_counts=True)
            levels.append(_level(grams, counts))
        return cls(tuple(reversed(levels)))

    @property
    def order(self) -> int:
        """How many symbols an n-gram has: it sees one fewer before it guesses."""
        return len(self.levels)

    def bits_per_byte(self, documents: Iterable[bytes]) -> float:
        """Bits the model needs for the documents, the end of each included, divided by their bytes."""
        bits, size = 0.0, 0
        for block in _blocks(documents, self.order):
            grams, counts = np.unique(block, return_counts=True)
            bits -= float(counts @ np.log2(self._probabilities(grams)))
            size += int(counts @ (_suffix(grams, 1) != END))
        return bits / size

    def distribution(self, context: bytes) -> Floats:
        """The probabilities [257] of what follows `context`, the document so far; index 256 is its end."""
        symbols = [*[BEGIN] * (self.order - 1), *context][len(context) :]
        key = reduce(lambda key, symbol: key << _BITS | symbol, symbols, 0)
        return self._probabilities(np.uint64(key << _BITS) | np.arange(SYMBOLS, dtype=np.uint64))

    def generate(self, prompt: bytes, max_bytes: int, rng: np.random.Generator, temperature: float = 1.0) -> bytes:
        """Continue a document that begins with `prompt`; returns the new bytes alone, fewer when the model ends it.

        temperature: above 0; below 1 the likely bytes become likelier still.
        """
        text = bytearray(prompt)
        for _ in range(max_bytes):
            cumulative = np.cumsum(self.distribution(bytes(text[-self.order :])) ** (1 / temperature))
            symbol = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
            if symbol == END:
                break
            text.append(symbol)
        return bytes(text[len(prompt) :])

    def _probabilities(self, grams: Keys) -> Floats:
        """The probability of the last symbol of each n-gram, given the ones before it."""
        probabilities = np.full(grams.shape, 1 / SYMBOLS)
        for length, level in enumerate(self.levels, start=1):
            keys = _suffix(grams, length)
            found, index = _find(level.contexts, _context(keys))
            probabilities[found] *= level.backoff[index]
            found, index = _find(level.grams, keys)
            probabilities[found] += level.own[index]
        return probabilities


def _blocks(documents: Iterable[bytes], order: int) -> Iterator[Keys]:
    """Every n-gram that ends at a byte or at the end of a document, once, in blocks of bounded size."""
    waiting: list[bytes] = []
    size = 0
    for document in documents:
        waiting.append(document)
        size += len(document)
        if size >= _BLOCK:
            yield _grams(waiting, order)
            waiting, size = [], 0
    if waiting:
        yield _grams(waiting, order)


def _grams(documents: Iterable[bytes], order: int) -> Keys:
    """Every run of `order` symbols that does not end in BEGIN, which is never predicted.

    A document has as many BEGIN before it as a context holds, and one END after it.
    """
    begin, end = np.full(order - 1, BEGIN, np.uint16), np.array([END], np.uint16)
    stream = np.concatenate([part for text in documents for part in (begin, np.frombuffer(text, np.uint8), end)])
    grams = np.zeros(stream.size - order + 1, np.uint64)
    for start in range(order):
        grams <<= np.uint64(_BITS)
        grams |= stream[start : start + grams.size]
    predicted: Keys = grams[_suffix(grams, 1) != BEGIN]
    return predicted


def _level(grams: Keys, counts: NDArray[np.int64]) -> _Level:
    contexts, starts = np.unique(_context(grams), return_index=True)
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


def _suffix(grams: Keys, length: int) -> Keys:
    """The newest `length` symbols of each n-gram."""
    return np.bitwise_and(grams, np.uint64((1 << _BITS * length) - 1))


def _context(grams: Keys) -> Keys:
    """Each n-gram without its newest symbol."""
    return np.right_shift(grams, np.uint64(_BITS))
