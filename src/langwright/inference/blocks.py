"""Blocks of the cache as numbers: which are free, and how many texts share each of the others. No tensors."""

import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

Table = list[int]
"""The blocks of one text, in the order of its tokens."""
Span = tuple[Table, int, int]
"""The table of a text, and the first and the last + 1 of its tokens that are about to be written."""


class Blocks:
    """Blocks of `size` tokens each, counted by the tables that hold them (PagedAttention, Kwon et al., 2023).

    A block that several tables hold is copied before one of them writes into it. The lowest free number is taken
    first, so that the blocks in use lie close together.

    A full block may be named by its tokens and all before them. When no table holds it any more it stays as it is,
    to be found by a text that begins in the same way, until room is wanted: what was left longest ago goes first.

    Args:
        count: how many there are.
        size: tokens in a block.

    Attributes:
        holders: how many tables hold each.
        taken: those that were free until they were claimed, for the memory to clean and to forget.
    """

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size
        self.holders = [0] * count
        self.taken: list[int] = []
        self._free = list(range(count))
        self._names: dict[int, tuple[bytes, Sequence[int]]] = {}
        self._named: dict[bytes, int] = {}
        self._left: dict[int, None] = {}  # named blocks that no table holds, the longest so first

    @property
    def free(self) -> int:
        """How many belong to no table."""
        return len(self._free) + len(self._left)

    def name(self, block: int, name: bytes, tokens: Sequence[int]) -> None:
        """Let a full block be found, unless another with the same name is there."""
        if name not in self._named:
            self._names[block], self._named[name] = (name, tokens), block

    def find(self, name: bytes, tokens: Sequence[int]) -> int | None:
        """The block of this name, if it holds these tokens indeed."""
        block = self._named.get(name)
        return None if block is None or self._names[block][1] != tokens else block

    def forget(self) -> None:
        """Take all names away."""
        for block in self._left:
            heapq.heappush(self._free, block)
        for names in (self._left, self._names, self._named):
            names.clear()

    def needed(self, tokens: int) -> int:
        """Blocks that so many tokens fill."""
        return -(-tokens // self.size)

    def missing(self, spans: Iterable[Span]) -> int:
        """Blocks that must be free before these spans can be written."""
        added, writers = 0, Counter[int]()
        for table, start, stop in spans:
            added += max(0, self.needed(stop) - len(table))
            writers.update(table[start // self.size : self.needed(stop)] if start < stop else ())
        return added + sum(min(count, self.holders[block] - 1) for block, count in writers.items())

    def claim(self, table: Table, start: int, stop: int) -> list[tuple[int, int]]:
        """Make a table ready for the tokens from `start` to `stop`: (block, its copy) of each that was shared."""
        copies = []
        for place in range(start // self.size, self.needed(stop) if start < stop else 0):
            if place >= len(table):
                table.append(self._take())
            elif self.holders[table[place]] > 1:
                self.holders[table[place]] -= 1
                copies.append((table[place], self._take()))
                table[place] = copies[-1][1]
        return copies

    def share(self, table: Table) -> Table:
        """A second table of the same blocks."""
        for block in table:
            self.holders[block] += 1
            self._left.pop(block, None)
        return list(table)

    def release(self, table: Table) -> None:
        """Empty a table; blocks that nothing else holds are free again, the last ones first."""
        for block in reversed(table):
            self.holders[block] -= 1
            if not self.holders[block]:
                if block in self._names:
                    self._left[block] = None
                else:
                    heapq.heappush(self._free, block)
        table.clear()

    def _take(self) -> int:
        if self._free:
            block = heapq.heappop(self._free)
        else:
            block = next(iter(self._left))
            del self._left[block], self._named[self._names.pop(block)[0]]
        self.holders[block] = 1
        self.taken.append(block)
        return block


def chained(before: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a block: the SHA-256 of the name of the one before it and of its tokens."""
    return hashlib.sha256(before + array("q", tokens).tobytes()).digest()
