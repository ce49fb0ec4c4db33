"""Which texts the next forward pass reads, and how far. It knows blocks as numbers, and no tensors.

Every step reads the next token of all texts that are being written, and `tokens` tokens of prompts: those of the text
that came first, then of the next, so that a long prompt takes several steps and delays no other text.

Texts are admitted in the order of their priority and then of their arrival, none before one that waits longer: when
there is a seat, and blocks for what is there of it beside one for each text that is running. A text takes over the
blocks of one that began in the same way; while those are being read it waits for them. When blocks run out, the text
that was admitted last (of those with the lowest priority) gives all of its blocks back, waits again in its old place,
and is read from the beginning, or from the first block that was lost, when there is room. Nothing here depends on the
clock.
"""

import copy
import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from langwright.inference.blocks import Span, Table, chained
from langwright.inference.continuation import Continuation, Group, Job, Piece
from langwright.inference.memory import Memory


class Plan(NamedTuple):
    """What the next step does.

    Args:
        copies: the blocks to copy first, as (block, copy).
        pieces: what is read.
        names: of the blocks of prompts that are being read.
    """

    copies: list[tuple[int, int]]
    pieces: list[Piece]
    names: set[bytes]


class Scheduler:
    """The groups that wait and those that run.

    Args:
        memory: what is kept of texts.
        seats: the most texts that run.
        tokens: the most tokens of prompts that are read in one step, but for a first one that must be read whole.
    """

    def __init__(self, memory: Memory, seats: int, tokens: int):
        self._memory, self._blocks, self._seats, self._tokens = memory, memory.blocks, seats, tokens
        self.waiting: list[Group] = []
        self.running: list[Group] = []

    def add(self, group: Group) -> None:
        """Let a group wait in its place."""
        insort(self.waiting, group, key=lambda one: one.order)

    def plan(self) -> Plan:
        """The pieces of the next step, whose blocks are claimed. Where it raises, all waits again."""
        there = [*self.running, *self.waiting]
        try:
            return self._plan()
        except BaseException:
            self.running = []
            for group in there:
                if group not in self.waiting:
                    self._preempt(group)
            raise

    def _plan(self) -> Plan:
        plan, queue, full = Plan([], [], set()), sorted(self.running, key=lambda one: one.order), False
        self.running, left = [], self._tokens
        while queue:
            group = queue.pop(0)
            if self._missing(group):
                group.texts[0].guessed = []
            while self._missing(group):
                full, last = True, queue.pop() if queue else group
                self._preempt(last)
                if last is group:
                    break
            else:
                left -= self._admit(group, plan, left)
        running, seats = len(plan.pieces), sum(one.seats for one in self.running)
        while self.waiting and not full and left > 0:
            group = self.waiting[0]
            known = all(self._take_over(text, plan.names) for text in group.texts)
            crowded = seats + group.seats > self._seats or self._missing(group, beside=running)
            work = sum(piece.work for piece in self._pieces(group, left))
            if not known or (self.running and crowded) or (left < self._tokens and work > left):
                for text in group.texts:
                    self.release(text)
                break
            seats += group.seats
            left -= self._admit(self.waiting.pop(0), plan, left)
        return plan

    def keep(self, piece: Piece) -> None:
        """Note that a piece was read, and let the blocks that it filled be found."""
        text, stop = piece.text, min(piece.stop, len(piece.text.ids))
        text.computed = stop if self._memory.keeps else 0
        if self._memory.reuses:
            names, size = self._named(text, stop), self._blocks.size
            for place in range(piece.start // size, (self._memory.ahead(text) + stop) // size):
                self._blocks.name(text.tables[0][place], names[place], self._tokens_of(text, place))

    def retreat(self) -> None:
        """Let all that run wait again, as after a step that failed."""
        running, self.running = self.running, []
        for group in running:
            self._preempt(group)

    @contextmanager
    def alone(self, job: Job) -> Iterator[None]:
        """While the block runs, nobody runs or waits but the texts of one request; then all wait."""
        self.retreat()
        aside = [group for group in self.waiting if group.owner is not job]
        self.waiting = [group for group in self.waiting if group.owner is job]
        try:
            yield
        finally:
            self.retreat()
            for group in aside:
                if group in group.owner.groups:  # it may have come to its deadline
                    self.add(group)

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
        text.computed, text.carried, text.state, text.guessed = 0, {}, None, []

    def share(self, old: Continuation, new: Continuation) -> None:
        """Let a text that goes on from the same tokens have what is kept of another."""
        first, second = map(self._blocks.share, old.tables)
        new.tables, new.carried, new.computed = (first, second), dict(old.carried), old.computed
        new.names = list(old.names)
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

    def _take_over(self, text: Continuation, reading: set[bytes]) -> bool:
        """Share the blocks that hold the beginning of a text; False where the next of them is being read now."""
        job = text.owner
        measured = job.request.prompt_logprobs is None or len(job.prompt_logprobs) >= text.prompt - 1
        if not self._memory.reuses or text.computed or not measured:
            return True
        found: Table = []
        for place, name in enumerate(self._named(text, len(text.ids) - 1)):
            block = self._blocks.find(name, self._tokens_of(text, place))
            if block is None:
                if name in reading:
                    return False
                break
            found.append(block)
        reused = len(found) * self._blocks.size - self._memory.ahead(text)
        if reused > 0:
            text.computed = reused
            text.tables[0].extend(self._blocks.share(found))
        return True

    def _named(self, text: Continuation, tokens: int) -> list[bytes]:
        """The names of the blocks that so many tokens of a text fill.

        The first hangs on what decides keys and values beside tokens, the adapters, and on who may share them: the salt
        of the request.
        """
        count, names = (self._memory.ahead(text) + tokens) // self._blocks.size, text.names
        while len(names) < count:
            about = repr((text.owner.request.salt, text.owner.adapters))
            before = names[-1] if names else hashlib.sha256(about.encode()).digest()
            names.append(chained(before, self._tokens_of(text, len(names))))
        return names[:count]

    def _tokens_of(self, text: Continuation, place: int) -> list[int]:
        """The tokens in a block of a text, behind virtual ones."""
        first = place * self._blocks.size - self._memory.ahead(text)
        return text.ids[max(0, first) : max(0, first + self._blocks.size)]

    def _pieces(self, group: Group, most: int) -> list[Piece]:
        """What is read next of a group: of one text so many tokens at the most, of several all."""
        most = max(1, most) if len(group.texts) == 1 else len(group.texts[0].ids)
        reached = [(text, self._memory.reach(text, most)) for text in group.texts]
        more = {text: len(text.guessed) if stop == len(text.ids) else 0 for text, stop in reached}
        return [Piece(text, text.computed, stop + more[text]) for text, stop in reached]

    def _spans(self, group: Group) -> list[Span]:
        """What reading all that is there of a group writes; its source once."""
        spans = []
        for text in group.texts:
            own, source = self._memory.spans(text, text.computed, len(text.ids) + len(text.guessed))
            spans.append((text.tables[0], *own))
            if text is group.texts[0]:
                spans.append((text.tables[1], *source))
        return spans

    def _missing(self, group: Group, beside: int = 0) -> bool:
        """Whether blocks are missing for what there is of a group, beside so many for others."""
        missing = self._blocks.missing(self._spans(group))
        return missing > 0 and missing + beside > self._blocks.free

    def _admit(self, group: Group, plan: Plan, most: int) -> int:
        """Let a group be read; how many tokens of prompts it reads."""
        for span in self._spans(group):
            plan.copies.extend(self._blocks.claim(*span))
        for text in group.texts[1:]:
            if not text.tables[1]:  # read anew: all write the same
                text.tables[1].extend(self._blocks.share(group.texts[0].tables[1]))
        pieces = self._pieces(group, most)
        plan.pieces.extend(pieces)
        self.running.append(group)
        prompts = [piece for piece in pieces if piece.work - len(piece.text.guessed) > 1]
        if self._memory.reuses:
            plan.names.update(name for piece in prompts for name in self._named(piece.text, len(piece.text.ids)))
        return sum(piece.work for piece in prompts)
