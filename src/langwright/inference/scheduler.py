"""Which texts the next forward pass reads, and how far. It knows blocks as numbers, and no tensors.

Texts are admitted in the order of their priority and then of their arrival, none before one that waits longer: when
there is a seat, and blocks for what is there of it beside one for each text that is running. When blocks run out, the
text that was admitted last (of those with the lowest priority) gives all of its blocks back, waits again in its old
place, and is read from the beginning when there is room. Nothing here depends on the clock.
"""

import copy
from bisect import bisect_left, insort
from typing import NamedTuple

from langwright.inference.continuation import Continuation, Group, Piece
from langwright.inference.memory import Memory


class Plan(NamedTuple):
    """What the next step does: the blocks to copy first, as (block, copy), and the pieces to read."""

    copies: list[tuple[int, int]]
    pieces: list[Piece]


class Scheduler:
    """The groups that wait and those that run.

    Args:
        memory: what is kept of texts.
        seats: the most texts that run.
        tokens: the most tokens of prompts that are read in one step, if more than one prompt is.
    """

    def __init__(self, memory: Memory, seats: int, tokens: int):
        self._memory, self._blocks, self._seats, self._tokens = memory, memory.blocks, seats, tokens
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
                self._preempt(last)
                if last is group:
                    break
            else:
                self._admit(group, plan)
        running, read, seats = len(plan.pieces), 0, sum(one.seats for one in self.running)
        while self.waiting and not full:
            group = self.waiting[0]
            work = sum(piece.work for piece in self._pieces(group))
            if self.running and (seats + group.seats > self._seats or self._missing(group, beside=running)):
                break
            if read and read + work > self._tokens:
                break
            read, seats = read + work, seats + group.seats
            self._admit(self.waiting.pop(0), plan)
        return plan

    def retreat(self) -> None:
        """Let all that run wait again, as after a step that failed."""
        running, self.running = self.running, []
        for group in running:
            self._preempt(group)

    def leave(self, group: Group) -> None:
        """Let a group go, wherever it is."""
        for text in group.texts:
            self.release(text)
        if group in self.running:
            self.running.remove(group)
        else:
            at = bisect_left(self.waiting, group.order, key=lambda one: one.order)
            del self.waiting[at : at + (self.waiting[at : at + 1] == [group])]

    def release(self, text: Continuation) -> None:
        """Forget what is kept of a text."""
        for table in text.tables:
            self._blocks.release(table)
        text.computed, text.carried, text.state = 0, {}, None

    def share(self, old: Continuation, new: Continuation) -> None:
        """Let a text that goes on from the same tokens have what is kept of another."""
        first, second = map(self._blocks.share, old.tables)
        new.tables, new.carried, new.computed = (first, second), dict(old.carried), old.computed
        new.state = copy.deepcopy(old.state)

    def never_fits(self, text: Continuation, copies: int) -> bool:
        """Whether so many texts of a source, each as long as this one may become, have no room even alone."""
        (_, own), (_, source) = self._memory.spans(text, 0, max(text.prompt, text.prompt + text.limit - 1))
        return copies * self._blocks.needed(own) + self._blocks.needed(source) > self._blocks.count

    def _preempt(self, group: Group) -> None:
        """Take all blocks of a running group, which waits again."""
        for text in group.texts:
            self.release(text)
        self.add(group)

    def _pieces(self, group: Group) -> list[Piece]:
        """What is read next of a group."""
        return [Piece(text, text.computed, self._memory.reach(text)) for text in group.texts]

    def _missing(self, group: Group, beside: int = 0) -> bool:
        """Whether blocks are missing for what the group has to read next, beside so many for others."""
        missing = self._blocks.missing(
            (table, *span)
            for piece in self._pieces(group)
            for table, span in zip(piece.text.tables, self._memory.spans(*piece), strict=True)
        )
        return missing > 0 and missing + beside > self._blocks.free

    def _admit(self, group: Group, plan: Plan) -> None:
        for piece in self._pieces(group):
            for table, span in zip(piece.text.tables, self._memory.spans(*piece), strict=True):
                plan.copies.extend(self._blocks.claim(table, *span))
            plan.pieces.append(piece)
        self.running.append(group)
