"""Classification by compression: the nearest neighbours of a text are those that help to compress it.

Jiang, Yang, Tsirlin, Tang, Dai and Lin, "Low-Resource Text Classification: A Parameter-Free Classification Method with
Compressors", 2023. With C(x) the bytes of x packed by gzip, and xy two texts joined by a blank, the distance is

    NCD(x, y) = (C(xy) - min(C(x), C(y))) / max(C(x), C(y))

(Cilibrasi and Vitanyi, "Clustering by compression", 2005). A text gets the label that most of its k nearest training
texts have.

The published figures were taken with k = 2, where the two neighbours disagree on many texts, and such a text counted as
right if either label was: accuracy of the better of two guesses. Here a tie goes to the label whose neighbours are
nearer, and what counting ties as right would give is reported beside it, under a name of its own.
"""

import gzip
import heapq
import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

_AT_HAND = 20_000  # comparisons that take less than starting processes
_CHUNK = 8  # texts that a process takes at once


class Neighbour(NamedTuple):
    """A training text beside one that is classified."""

    distance: float
    label: str


def packed_size(text: str) -> int:
    """Bytes of a text in UTF-8 packed by gzip at its default of Python, level 9."""
    return len(gzip.compress(text.encode(), mtime=0))


def distance(one: str, other: str, one_size: int, other_size: int) -> float:
    """The normalised compression distance of two texts whose packed sizes are known."""
    low, high = sorted((one_size, other_size))
    return (packed_size(f"{one} {other}") - low) / high


def nearest_neighbours(
    texts: Sequence[str],
    labels: Sequence[str],
    unknown: Sequence[str],
    *,
    k: int,
    seed: int = 0,
    processes: int | None = None,
    told: Callable[[int], None] = lambda count: None,
) -> list[list[Neighbour]]:
    """The k nearest training texts of each text, nearest first.

    Args:
        texts: The training texts.
        labels: Their labels.
        unknown: The texts to classify.
        k: How many neighbours, at most as many as there are training texts.
        seed: Of the order in which training texts at the same distance come, so that it is not that of the file, in
            which those of one label often stand together.
        processes: How many work; as many as there are processors unless given.
        told: Called with the number of texts that were compared with all.
    """
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    known = [_Known(texts[i], labels[i], packed_size(texts[i])) for i in order]
    count = processes or (1 if len(texts) * len(unknown) < _AT_HAND else os.cpu_count() or 1)
    found = []
    with ExitStack() as stack:
        if count == 1:
            _begin(known, k)
            results: Iterable[list[Neighbour]] = map(_nearest, unknown)
        else:  # spawned: a fork would copy the threads that draw progress bars, without the threads
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(context.Pool(count, _begin_process, (known, k)))
            results = pool.imap(_nearest, unknown, _CHUNK)
        for nearest in results:
            found.append(nearest)
            told(1)
    return found


def vote(nearest: Sequence[Neighbour]) -> tuple[str, list[str]]:
    """The label of most neighbours, and all labels that as many have.

    Of several, the one whose neighbours have the smallest sum of distances; of equal sums the one of the first.
    """
    counts = Counter(label for _, label in nearest)
    tied = [label for label, count in counts.items() if count == max(counts.values())]
    sums = {label: sum(far for far, other in nearest if other == label) for label in tied}
    return min(tied, key=sums.__getitem__), tied


class _Known(NamedTuple):
    text: str
    label: str
    size: int


_known: list[_Known] = []
_k = 1


def _begin(known: list[_Known], k: int) -> None:
    """What all comparisons of a process share, so that it is sent once."""
    global _known, _k
    _known, _k = known, k


def _begin_process(known: list[_Known], k: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process ends the others
    _begin(known, k)


def _nearest(text: str) -> list[Neighbour]:
    size = packed_size(text)
    return heapq.nsmallest(
        _k,
        (Neighbour(distance(text, other.text, size, other.size), other.label) for other in _known),
        key=lambda neighbour: neighbour.distance,
    )
