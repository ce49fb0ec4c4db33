"""Texts that are the same, and texts that are nearly the same."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langwright.corpora.words import tokens

SHINGLE = 3
"""Tokens in a shingle."""

PERMUTATIONS = 128
RECALL = 0.99
"""The chance that a pair just at the threshold is found."""


def shingles(parts: Sequence[str]) -> frozenset[str]:
    """Every run of `SHINGLE` tokens; of fewer, all of them as one."""
    count = max(1, len(parts) - SHINGLE + 1)
    return frozenset(" ".join(parts[i : i + SHINGLE]) for i in range(count))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """The share of all shingles of two texts that both have, from 0 to 1."""
    return len(a & b) / len(a | b)


def exact_duplicates(keys: Sequence[str]) -> list[int]:
    """The numbers of the texts that equal an earlier one."""
    first: dict[str, int] = {}
    return [i for i, key in enumerate(keys) if first.setdefault(key, i) != i]


def near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """The numbers of the texts whose Jaccard similarity to an earlier one that is kept reaches `threshold`, and which.

    MinHash (Broder, 1997) with locality-sensitive hashing: `PERMUTATIONS` smallest hashes of a text's shingles are cut
    into bands; texts that agree on a band are compared exactly, so that nothing is dropped by mistake, and a pair at
    the threshold is missed with a probability of at most 1 - `RECALL`. The same texts always give the same answer.
    """
    width = band_width(threshold)
    numbers = np.random.default_rng(0).integers(0, 2**64, (2, PERMUTATIONS, 1), dtype=np.uint64)
    multipliers, offsets = numbers[0] | np.uint64(1), numbers[1]
    buckets: dict[tuple[int, bytes], list[int]] = {}
    sets: list[frozenset[str]] = []
    found: dict[int, int] = {}
    for number, text in enumerate(texts):
        own = shingles(tokens(text))
        sets.append(own)
        signature = _signature(own, multipliers, offsets)
        bands = [(i, signature[i : i + width].tobytes()) for i in range(0, PERMUTATIONS - width + 1, width)]
        candidates = sorted({other for band in bands for other in buckets.get(band, ())})
        match = next((other for other in candidates if jaccard(own, sets[other]) >= threshold), None)
        if match is None:
            for band in bands:
                buckets.setdefault(band, []).append(number)
        else:
            found[number] = match
    return found


def band_width(threshold: float) -> int:
    """The most hashes a band may have while a pair at the threshold still shares one with probability `RECALL`."""
    widths = range(1, PERMUTATIONS + 1)
    return max((w for w in widths if 1 - (1 - threshold**w) ** (PERMUTATIONS // w) >= RECALL), default=1)


def _signature(own: frozenset[str], multipliers: NDArray[np.uint64], offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    hashes = b"".join(hashlib.blake2b(shingle.encode(), digest_size=8).digest() for shingle in own)
    numbers = np.frombuffer(hashes, "<u8")
    mixed = numbers[None] * multipliers + offsets  # modulo 2**64
    return (mixed ^ (mixed >> np.uint64(32))).min(1)
