"""What is taken from a text so that a model learns to put it back: masks, spans, denoising.

Every decision is a pure function of a key, "{seed}:{epoch}:{example}", and a purpose: each epoch draws anew, and
neither ranks, workers, packing nor a resumed run change what is drawn. Like the order of samples (`data/order.py`) the
numbers are a format: SplitMix64's finaliser over a key and a counter.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langwright.data.order import mix

Ids = NDArray[np.int64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""What SplitMix64 adds for each number of a stream."""


def uniform(key: str, purpose: str, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1), each a pure function of its place and the key.

    Args:
        key: "{seed}:{epoch}:{example}".
        purpose: what the numbers decide, so that decisions are independent.
        count: how many.
    """
    text = f"langwright noise 1:{key}:{purpose}"
    begin = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8).digest(), "<u8")
    words = mix(begin + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN) >> np.uint64(11)
    return words.astype(np.float64) * np.float64(2.0**-53)


@dataclass(frozen=True)
class Masking:
    """Masked tokens: of those chosen, 80 percent become `mask`, 10 percent any token, 10 percent stay (BERT, 2018).

    The masks of a text are new in each epoch (RoBERTa, 2019).

    Args:
        mask: the id of the mask token.
        vocabulary: random tokens are below it.
        rate: the share of tokens that is chosen, rounded to whole tokens, at least one.
        starts: for each id whether it begins a word, to mask whole words; None masks tokens.
    """

    mask: int
    vocabulary: int
    rate: float = 0.15
    starts: NDArray[np.bool_] | None = None

    def __call__(self, ids: Ids, key: str) -> tuple[Ids, NDArray[np.bool_]]:
        """The text with its masks, and which tokens are to be predicted."""
        chosen = self._chosen(ids, uniform(key, "mask", len(ids)))
        kind, other = uniform(key, "replace", len(ids)), uniform(key, "random", len(ids))
        noisy = np.where(chosen & (kind < 0.8), self.mask, ids)
        return np.where(chosen & (kind >= 0.9), (other * self.vocabulary).astype(np.int64), noisy), chosen

    def _chosen(self, ids: Ids, order: NDArray[np.float64]) -> NDArray[np.bool_]:
        wanted = max(1, round(len(ids) * self.rate))
        if self.starts is None:
            chosen = np.zeros(len(ids), dtype=bool)
            chosen[np.argsort(order, kind="stable")[:wanted]] = True
            return chosen
        word = np.cumsum(self.starts[ids]) - self.starts[ids[0]]  # the first tokens may be the rest of a word
        lengths = np.bincount(word)
        words = np.argsort(order[: len(lengths)], kind="stable")
        taken = words[np.cumsum(lengths[words]) <= wanted]  # a word is masked whole, or not at all
        return np.isin(word, taken if len(taken) else words[:1])


@dataclass(frozen=True)
class SpanCorruption:
    """Spans of a text are replaced by sentinels, and are what the decoder writes (T5, Raffel et al., 2020).

    Args:
        sentinels: their ids, in the order of use.
        density: the share of tokens in spans.
        mean: tokens a span on average.
    """

    sentinels: Sequence[int]
    density: float = 0.15
    mean: float = 3.0

    def counts(self, length: int) -> tuple[int, int]:
        """Tokens in spans, and spans, of a text of so many tokens."""
        noise = min(max(round(length * self.density), 1), length - 1)
        return noise, max(1, min(round(noise / self.mean), length - noise, len(self.sentinels)))

    def sizes(self, length: int) -> tuple[int, int]:
        """Tokens of the source and of the target, without their ends."""
        noise, spans = self.counts(length)
        return length - noise + spans, noise + spans

    def __call__(self, ids: Ids, key: str) -> tuple[Ids, Ids]:
        """The source, each span a sentinel, and the target: each sentinel followed by its span."""
        noise, spans = self.counts(len(ids))
        kept = _segments(len(ids) - noise, spans, uniform(key, "kept", len(ids)))
        lost = _segments(noise, spans, uniform(key, "lost", len(ids)))
        ends = np.cumsum(np.stack((kept, lost), 1).reshape(-1))  # kept, lost, kept, lost, ...
        marks = np.asarray(self.sentinels[:spans], dtype=np.int64)
        is_lost = np.repeat(np.arange(2 * spans) % 2 == 1, np.diff(ends, prepend=0))
        starts = ends[:-1:2]  # of the lost spans
        source = np.insert(ids[~is_lost], np.cumsum(kept), marks)
        target = np.insert(ids[is_lost], np.searchsorted(np.flatnonzero(is_lost), starts), marks)
        return source, target


@dataclass(frozen=True)
class Denoising:
    """The noise of BART (Lewis et al., 2020); the target is the text itself.

    Args:
        mask: the id of the mask token.
        infill: the share of tokens in spans of Poisson length, each replaced by one mask; spans of no token insert one.
        mean: of the lengths of spans.
        permute: whether sentences change places.
        stops: for each id whether it ends a sentence.
        delete: the share of tokens that is left out.
        rotate: the share of texts that begin at another token.
    """

    mask: int
    infill: float = 0.3
    mean: float = 3.5
    permute: bool = True
    stops: NDArray[np.bool_] | None = None
    delete: float = 0.0
    rotate: float = 0.0

    def sizes(self, length: int) -> tuple[int, int]:
        """Tokens of the source, at most, and of the target."""
        return length, length

    def __call__(self, ids: Ids, key: str) -> tuple[Ids, Ids]:
        """The text with its noise, and the text."""
        return self._noisy(ids, key), ids

    def _noisy(self, ids: Ids, key: str) -> Ids:
        if self.permute and self.stops is not None:
            sentences = np.split(ids, np.flatnonzero(self.stops[ids][:-1]) + 1)
            order = np.argsort(uniform(key, "permute", len(sentences)), kind="stable")
            ids = np.concatenate([sentences[i] for i in order])
        if self.infill:
            ids = self._infilled(ids, key)
        if self.delete:
            left = uniform(key, "delete", len(ids)) >= self.delete
            ids = ids[left] if left.any() else ids[:1]
        first, rotates = uniform(key, "rotate", 2)
        return np.roll(ids, -int(first * len(ids))) if rotates < self.rotate else ids

    def _infilled(self, ids: Ids, key: str) -> Ids:
        wanted = round(len(ids) * self.infill)
        lengths = poisson(self.mean, uniform(key, "lengths", max(8, wanted)))
        totals = np.cumsum(lengths)
        lengths = lengths[: np.searchsorted(totals, wanted) + 1]
        lengths[-1] -= max(0, int(lengths.sum()) - wanted)
        if len(lengths) > wanted:  # spans of no token must not make the text longer
            lengths = lengths[lengths > 0]
        # Spans and kept tokens as units in a random order: spans never overlap.
        units = len(ids) - int(lengths.sum()) + len(lengths)
        places = np.sort(np.argsort(uniform(key, "places", units), kind="stable")[: len(lengths)])
        size = np.ones(units, dtype=np.int64)
        size[places] = lengths
        starts = np.cumsum(size) - size
        made = ids[np.minimum(starts, len(ids) - 1)]
        made[places] = self.mask
        return made


@dataclass(frozen=True)
class Cut:
    """A text is cut in two: the encoder reads the first part, the decoder writes the rest (Liu et al., 2018).

    All places between two tokens are equally likely.
    """

    def sizes(self, length: int) -> tuple[int, int]:
        """Tokens of the source and of the target, at most."""
        return length - 1, length - 1

    def __call__(self, ids: Ids, key: str) -> tuple[Ids, Ids]:
        """The first part, and the rest."""
        at = 1 + int(uniform(key, "cut", 1)[0] * (len(ids) - 1))
        return ids[:at], ids[at:]


def longest(sizes: Callable[[int], tuple[int, int]], limit: int) -> int:
    """The longest text whose source and target fit into so many tokens each."""
    length = limit
    while max(sizes(length + 1)) <= limit:
        length += 1
    while length > 2 and max(sizes(length)) > limit:
        length -= 1
    return length


def poisson(mean: float, numbers: NDArray[np.float64]) -> Ids:
    """Poisson numbers from uniform ones, by inverting the distribution."""
    steps = np.arange(1, 128)
    chances = np.exp(-mean) * np.concatenate(([1.0], np.cumprod(mean / steps)))
    return np.searchsorted(np.cumsum(chances), numbers, side="right").astype(np.int64)


def _segments(items: int, segments: int, order: NDArray[np.float64]) -> Ids:
    """The lengths of `segments` parts of `items`, each at least one, all ways equally likely."""
    cuts = np.sort(np.argsort(order[: items - 1], kind="stable")[: segments - 1]) + 1
    return np.diff(np.concatenate(([0], cuts, [items])))
