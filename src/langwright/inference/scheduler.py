"""Which texts the next forward pass reads, and how far. It knows blocks as numbers, and no tensors.

Texts are admitted in the order of their priority and then of their arrival, none before one that waits longer: when
there is a seat, and blocks for what is there of it beside one for each text that is running. When blocks run out, the
text that was admitted last (of those with the lowest priority) gives all of its blocks back, waits again in its old
place, and is read from the beginning when there is room. Nothing here depends on the clock.
"""

import copy
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from langwright.inference.blocks import Blocks
from langwright.inference.continuation import Continuation, Job, Piece

Reach = Callable[[Continuation], int]
"""Behind which token of a text the next piece of it ends."""
Spans = Callable[[Continuation, int, int], Sequence[tuple[int, int]]]


@dataclass(eq=False)
class Group:
    """Texts that go on together: one, or the beams of a search.

    Args:
        owner: the request that they belong to.
        order: who goes first: the negative priority, then the number of the arrival.
        texts: the texts.
        seats: how many there are once the prompt is read.
    """

    owner: Job
    order: tuple[int, ...]
    texts: list[Continuation]
    seats: int = 1


class Plan(NamedTuple):
    """What the next step does: the blocks to copy first, as (block, copy), and the pieces to read."""

    copies: list[tuple[int, int]]
    pieces: list[Piece]


class Scheduler:
    """The groups that wait and those that run.

    Args:
        blocks: those of texts, and those of sources.
        spans: the tokens that reading a part of a text writes, in each of them (`PagedCache.spans`).
        seats: the most texts that run.
        tokens: the most tokens of prompts that are read in one step, if more than one prompt is.
        reach: where the next piece of a text ends.
    """

    def __init__(self, blocks: Sequence[Blocks], spans: Spans, seats: int, tokens: int, reach: Reach):
        self._blocks, self._spans, self._reach = blocks, spans, reach
        self._seats, self._tokens = seats, tokens
        self.waiting: list[Group] = []
        self.running: list[Group] = []

    def add(self, group: Group) -> None:
        """Let a group wait in its place."""
        insort(self.waiting, group, key=lambda one: one.order)

    def plan(self) -> Plan:
        """The pieces of the next step, whose blocks are claimed."""
        plan, queue, full = Plan([], []), sorted(self.running, key=lambda one: one.order), False
        self.running = []
        while queue:
            group = queue.pop(0)
            while self._missing(group):
                full, last = True, queue.pop() if queue else group
                self.preempt(last)
                if last is group:
                    break
            else:
                self._admit(group, plan)
        running, read = len(plan.pieces), 0
        while self.waiting and not full:
            group = self.waiting[0]
            seats, tokens = sum(one.seats for one in self.running), sum(map(self._reach, group.texts))
            if self.running and (seats + group.seats > self._seats or self._missing(group, beside=running)):
                break
            if read and read + tokens > self._tokens:
                break
            read += tokens
            self._admit(self.waiting.pop(0), plan)
        return plan

    def preempt(self, group: Group) -> None:
        """Take all blocks of a running group, which waits again."""
        for text in group.texts:
            self.release(text)
        self.add(group)

    def leave(self, group: Group) -> None:
        """Let a group go, wherever it is."""
        for text in group.texts:
            self.release(text)
        self.waiting = [one for one in self.waiting if one is not group]
        self.running = [one for one in self.running if one is not group]

    def release(self, text: Continuation) -> None:
        """Forget what is kept of a text."""
        for blocks, table in zip(self._blocks, text.tables, strict=True):
            blocks.release(table)
        text.computed, text.carried, text.state = 0, {}, None

    def share(self, old: Continuation, new: Continuation) -> None:
        """Let a text that goes on from the same tokens have what is kept of another."""
        pairs = zip(self._blocks, old.tables, strict=True)
        first, second = (blocks.share(table) for blocks, table in pairs)
        new.tables, new.carried, new.computed = (first, second), dict(old.carried), old.computed
        new.state = copy.deepcopy(old.state)

    def never_fits(self, text: Continuation, copies: int) -> bool:
        """Whether so many texts, each as long as this one may become, have no room even alone."""
        longest = self._spans(text, 0, max(text.prompt, text.prompt + text.limit - 1))
        return any(
            copies * blocks.needed(stop) > blocks.count for blocks, (_, stop) in zip(self._blocks, longest, strict=True)
        )

    def _missing(self, group: Group, beside: int = 0) -> bool:
        """Whether blocks are missing for what the group has to read next, beside so many for others."""
        spans = [self._spans(text, text.computed, self._reach(text)) for text in group.texts]
        for kind, blocks in enumerate(self._blocks):
            written = [(text.tables[kind], *span[kind]) for text, span in zip(group.texts, spans, strict=True)]
            missing = blocks.missing(written)
            if missing and missing + beside * (kind == 0) > blocks.free:
                return True
        return False

    def _admit(self, group: Group, plan: Plan) -> None:
        for text in group.texts:
            stop = self._reach(text)
            spans = self._spans(text, text.computed, stop)
            first, _ = (b.claim(t, *s) for b, t, s in zip(self._blocks, text.tables, spans, strict=True))
            plan.copies.extend(first)
            plan.pieces.append(Piece(text, text.computed, stop))
        self.running.append(group)
