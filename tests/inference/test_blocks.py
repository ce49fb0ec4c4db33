"""Blocks as numbers: hundreds of random schedules against a model that writes each token down by itself."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from langwright.inference.blocks import Blocks


class Tables(RuleBasedStateMachine):
    """Every token that was written must be found again, in the block that the table says, whoever else writes."""

    texts = Bundle("texts")

    @initialize(count=st.integers(1, 9), size=st.integers(1, 4))
    def begin(self, count: int, size: int) -> None:
        self.blocks = Blocks(count, size)
        self.memory: dict[tuple[int, int], int] = {}
        self.alive: list[tuple[list[int], list[int]]] = []
        self.written = 0

    @rule(target=texts)
    def new(self) -> Any:
        self.alive.append(([], []))
        return self.alive[-1]

    @rule(text=texts, more=st.integers(0, 6))
    def write(self, text: Any, more: int) -> None:
        table, tokens = text
        start, stop = len(tokens), len(tokens) + more
        missing, free = self.blocks.missing([(table, start, stop)]), self.blocks.free
        if missing > free:
            return
        for source, copy in self.blocks.claim(table, start, stop):
            for offset in range(self.blocks.size):
                if (source, offset) in self.memory:
                    self.memory[copy, offset] = self.memory[source, offset]
        assert free - self.blocks.free == missing
        for place in range(start, stop):
            self.written += 1
            tokens.append(self.written)
            self.memory[table[place // self.blocks.size], place % self.blocks.size] = self.written

    @rule(target=texts, text=texts)
    def share(self, text: Any) -> Any:
        self.alive.append((self.blocks.share(text[0]), list(text[1])))
        return self.alive[-1]

    @rule(target=texts, text=consumes(texts))
    def release(self, text: Any) -> Any:
        self.alive = [one for one in self.alive if one is not text]
        self.blocks.release(text[0])
        return multiple()

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "blocks"):
            return
        size, held = self.blocks.size, [block for table, _ in self.alive for block in table]
        assert [held.count(block) for block in range(self.blocks.count)] == self.blocks.holders
        assert self.blocks.free == self.blocks.count - len(set(held))
        for table, tokens in self.alive:
            assert len(table) == self.blocks.needed(len(tokens))
            assert tokens == [self.memory[table[i // size], i % size] for i in range(len(tokens))]


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(("holders", "needs"), [(1, 2), (2, 3)])
def test_the_last_of_those_who_write_into_a_shared_block_needs_no_copy(holders: int, needs: int) -> None:
    """Three beams whose fourth token goes into one block: two copies, or three where a text beside them keeps it."""
    blocks = Blocks(9, 4)
    first: list[int] = []
    blocks.claim(first, 0, 3)
    beams = [first, blocks.share(first), blocks.share(first)]
    kept = [blocks.share(first) for _ in range(holders - 1)]
    assert blocks.missing((table, 3, 4) for table in beams) == needs
    copies = [copy for table in beams for copy in blocks.claim(table, 3, 4)]
    assert len(copies) == needs
    assert len({table[0] for table in (*beams, *kept)}) == 3 + holders - 1
