"""Which window each sample looks at: a seeded bijection, so that nothing need be shuffled, stored or replayed.

Sample s of a run belongs to epoch s // n and looks at window `shuffled(s % n)` of the n windows. That depends on the
seed, the epoch and n alone: not on ranks, workers, or where a run was resumed.

The bijection is a balanced Feistel network of `ROUNDS` rounds on 2 * h bits, the fewest for which 4**h >= n, walked
until it lands below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Round keys are the 64-bit
little-endian words of BLAKE2b-512 over the text "langwright order 1:{seed}:{epoch}"; the round function is the
finaliser of SplitMix64 over the right half plus the key. This is a format: it never changes, because a resumed run
must see the same samples.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langwright.base.errors import UserError

ROUNDS = 8
ROUND = 8
"""Rows are as wide as the longest of their batch, rounded up to this many tokens."""
GATHERED = 32
"""Steps whose rows are dealt anew by length."""


def shuffled(positions: NDArray[np.int64], count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The bijection of 0 .. count - 1 that a seed and an epoch choose, applied to each position."""
    half = (max(count - 1, 1).bit_length() + 1) // 2
    keys = np.frombuffer(hashlib.blake2b(f"langwright order 1:{seed}:{epoch}".encode()).digest(), "<u8")
    values = _feistel(positions.astype(np.uint64), half, keys)
    while (outside := values >= count).any():
        values[outside] = _feistel(values[outside], half, keys)
    return values.astype(np.int64)


def windows_of(samples: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """The window that each sample number looks at; samples may lie in several epochs."""
    epochs, positions = np.divmod(samples, count)
    windows = np.empty_like(samples)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        windows[chosen] = shuffled(positions[chosen], count, seed, int(epoch))
    return windows


@dataclass(frozen=True)
class Layout:
    """How rows become the batches of steps, for this process. UserError where ranks cannot share a batch equally.

    Args:
        batch_size: rows a step, over all ranks.
        seed: of the order of the rows.
        fixed: every row is as wide as the context, for compiled code; else the longest row of a batch decides.
        rank: which share of each batch this process takes.
        world: how many processes share it.
    """

    batch_size: int
    seed: int
    fixed: bool = False
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world:
            raise UserError(
                f"--batch-size {self.batch_size}: cannot be shared by {self.world} ranks; make it a multiple of that"
            )

    def samples(self, step: int) -> NDArray[np.int64]:
        """The sample numbers of a step; those of all ranks, in order, are the same for any `world`."""
        share = self.batch_size // self.world
        return np.arange(share, dtype=np.int64) + step * self.batch_size + self.rank * share

    def rows(self, step: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sample numbers of a step, and which of `count` rows each of them is."""
        samples = self.samples(step)
        return samples, windows_of(samples, count, self.seed)

    def gathered(
        self, step: int, count: int, lengths: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same, where rows of about one length share a batch, so that little of it is padding.

        The samples of `GATHERED` steps, or of one epoch, are dealt to these steps by width, which then take a random
        order; rows of one width stay mixed. lengths: of each of some rows.
        """
        steps = max(1, min(GATHERED, count // self.batch_size))
        group, place = divmod(step, steps)
        samples = np.arange(steps * self.batch_size, dtype=np.int64) + group * steps * self.batch_size
        numbers = windows_of(samples, count, self.seed)
        which = shuffled(np.array([place]), steps, self.seed, group)[0]
        widths = -(-lengths(numbers) // ROUND)
        dealt = np.argsort(widths, kind="stable").reshape(steps, -1)[which]
        share = self.batch_size // self.world
        here = dealt[self.rank * share : (self.rank + 1) * share]
        return samples[here], numbers[here]


def row_width(longest: int, context: int) -> int:
    """How wide the rows of a batch are whose longest has so many inputs."""
    return min(context, -(-longest // ROUND) * ROUND)


def _feistel(values: NDArray[np.uint64], half: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for key in keys[:ROUNDS]:
        left, right = right, left ^ (mix(right + key) & mask)
    return (left << bits) | right


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
