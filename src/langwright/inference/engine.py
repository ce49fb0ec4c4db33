"""Many texts written side by side, each joining and leaving when it will (continuous batching, Orca, Yu et al., 2022).

An engine is driven by whoever owns it, in one thread: `add` a request, then `step` until its handle is done. A step
plans which pieces of texts are read (`scheduler.py`), reads them in one forward pass for each shape, and chooses the
next token of every text that was read to its end.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.adaptation.attached import BASE, answering, attached
from langwright.base.errors import UserError, check_flag, first_line
from langwright.inference.beam import Hypotheses
from langwright.inference.constraints import Constraints, hold
from langwright.inference.continuation import Continuation, Group, Job, Piece
from langwright.inference.memory import Memory, Nothing
from langwright.inference.paged import PagedCache
from langwright.inference.prompts import check_ids, given_ids, length_limit, padded
from langwright.inference.request import Completion, Handle, Logprob, Reason, Request
from langwright.inference.sampling import Rules, adjust, apply_rules, draw
from langwright.inference.scheduler import Scheduler
from langwright.inference.sinks import Sinks, Streaming
from langwright.inference.speculation import REST, TRIED, WORTH, Speculation
from langwright.models.model import Model
from langwright.parts.kept import Cache
from langwright.planning.machine import free_memory
from langwright.text.tokenizer import Tokenizer

PASS = 16
"""A pass reads all weights, which takes about as long as so many tokens: padding up to that is cheaper than a pass."""
SHARE = 0.5
"""The most of the free memory that an engine takes unless told otherwise."""
LONGEST = 4096
"""Tokens of a text for which room is made where the model has no limit."""
ROWS = 128
"""Rows of logits that are held at once for the log-probabilities of a prompt."""


class Engine:
    """Continues prompts.

    Args:
        model: a model that writes text.
        tokenizer: the model's; None where prompts are ids and no text is wanted. Then `stop_ids` alone end a text.
        batch: the most texts that are written side by side.
        memory: bytes for keys and values, allocated at once; by default what `batch` texts of `longest` tokens need,
            and at most half of the memory that is free.
        blocks: the number of blocks, in place of `memory`.
        block_size: tokens in a block.
        longest: the most tokens of a text and its prompt, for the default of `memory`; by default the context.
        cache: how keys and values are kept between steps; as `model.body.cache` says unless given.
        streaming: forget the middle of a text that grows too long, so that it may go on past the model's context.
        prompt_tokens: the most tokens of prompts that one step reads; a longer prompt is read in several, beside the
            next tokens of others, where the model allows it.
        speculation: guesses what comes next, so that several tokens may be read in one pass.
        clock: seconds, for deadlines.

    Attributes:
        guessed, came: how many tokens were guessed and looked at, and how many of them the model drew.

    Raises:
        UserError: The model writes no text, or settings exclude each other.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None = None,
        *,
        batch: int = 16,
        memory: int | None = None,
        blocks: int | None = None,
        block_size: int = 16,
        longest: int | None = None,
        cache: Cache | None = None,
        streaming: Streaming | None = None,
        prompt_tokens: int = 2048,
        speculation: Speculation | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        if not model.generates:
            raise UserError(f'a {model.family} model with the head "{model.task}" writes no text')
        sizes: dict[str, int | None] = {"batch": batch, "memory": memory, "blocks": blocks, "block_size": block_size}
        sizes |= {"longest": longest, "prompt_tokens": prompt_tokens}
        for name, value in sizes.items():
            check_flag(name, value, value is None or value >= 1, "at least 1")
        cache = cache or model.body.cache
        kept, paged = cache != "none", cache != "none" and streaming is None
        for name, given in (("window", streaming), ("memory", memory), ("blocks", blocks)):
            if given is not None and not (kept if name == "window" else paged):
                raise UserError(f"--{name}: has no place {'beside --window' if kept else 'without a cache'}; drop one")
        if cache == "int8" and streaming is not None:
            raise UserError("--cache int8: has no place beside --window, whose keys are turned anew; drop one")
        self.model, self.tokenizer, self._clock = model, tokenizer, clock
        self._vocabulary = model.vocabulary if tokenizer is None else tokenizer.vocab_size
        self._streams = streaming is not None
        self._memory: Memory
        if streaming is not None:
            self._memory = Sinks(streaming, model, batch, block_size)
        elif not kept:
            self._memory = Nothing(model)
        else:
            each = PagedCache.block_bytes(model, block_size, cache)
            count = blocks or _affordable(model, memory, batch, longest, block_size, each)
            self._memory = PagedCache(model, count, block_size, cache)
        if speculation is not None and not self._memory.rewrites:
            raise UserError(
                f"--lookup and --draft: guesses are taken back, and what is kept of texts here cannot be "
                f"({model.family}, --window or --cache none); leave them out"
            )
        self._scheduler = Scheduler(self._memory, batch, prompt_tokens)
        self._speculation, self.guessed, self.came = speculation, 0, 0
        self._arrivals = 0
        self._jobs: dict[Handle, Job] = {}
        self._timed: set[Job] = set()
        self._news: dict[Handle, None] = {}

    @property
    def busy(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self._jobs)

    @property
    def free_blocks(self) -> int:
        """Blocks that belong to no text."""
        return self._memory.blocks.free

    def add(self, request: Request) -> Handle:
        """Take on a request, which the following steps work on.

        Raises:
            UserError: It does not fit the model, or could never fit the blocks.
        """
        model, search = self.model, request.search
        if search.beams > 1 and isinstance(self._memory, Sinks):
            raise UserError(f"--window: has no place beside --beams {search.beams}, which keep whole texts; drop one")
        if model.encoders and request.prompt_logprobs is not None:
            raise UserError(f"--prompt-logprobs: a {model.family} model writes no prompt; leave it out")
        given = given_ids(model, self.tokenizer, request.prompt)
        ids, source = ([model.frame.start], tuple(given)) if model.encoders else (given, ())
        limit = length_limit(None if self._streams else model.context, len(ids), request.max_new_tokens)
        until = math.inf if request.deadline is None else self._clock() + request.deadline
        job = Job(request, Handle(request), self.tokenizer, self._rules(request), self._ends(request), until)
        if search.beams > 1:
            job.beams = Hypotheses(search, job.ends)
        if request.constraint is not None:
            job.form = self.constraints.begin(request.constraint)
        job.adapters = self._adapters(request.adapter)
        text = Continuation(job, ids, len(ids), limit, source)
        if self._scheduler.never_fits(text, search.beams):
            blocks = self._memory.blocks
            raise UserError(
                f"a prompt of {len(given)} tokens and {limit} new ones (--beams {search.beams}) can never fit the "
                f"{blocks.count} blocks of {blocks.size} tokens that the engine has; give it more, or ask for less"
            )
        self._arrivals += 1
        self._jobs[job.handle] = job
        if request.deadline is not None:
            self._timed.add(job)
        seats = max(search.beams, request.texts)
        job.groups.append(Group(job, (-request.priority, self._arrivals, 0), [text], seats))
        self._scheduler.add(job.groups[0])
        return job.handle

    def cancel(self, handle: Handle) -> None:
        """End a request as far as it came; texts of it that have ended stay as they are."""
        if handle in self._jobs:
            self._break_off(self._jobs[handle], "cancelled")

    def forget(self) -> None:
        """Keep nothing of earlier requests, as is due when the weights of the model have changed."""
        if self.busy:
            raise ValueError("requests are on their way; finish or cancel them first")
        self._memory.blocks.forget()

    def finish(self, handles: Iterable[Handle]) -> list[list[Completion]]:
        """Step until these are done."""
        handles = list(handles)
        while not all(handle.done for handle in handles):
            if not self.busy:
                raise ValueError("a handle of another engine never ends here")
            self.step()
        return [handle.completions for handle in handles]

    @torch.inference_mode()
    def step(self) -> list[Handle]:
        """Read what comes next of the texts that run, and choose the next token of each.

        Where a step raises, all that ran waits again, and a later step reads it anew.

        Returns:
            The requests of which there is something new: text to `read`, or their end.
        """
        now = self._clock() if self._timed else 0.0
        for job in [job for job in self._timed if now >= job.until]:
            self._break_off(job, "deadline")
        self._guess()
        plan = self._scheduler.plan()
        try:
            self._memory.prepare(plan.copies)
            self._go_on(*self._read_all(plan.pieces))
        except BaseException:
            self._scheduler.retreat()
            raise
        news, self._news = list(self._news), {}
        return news

    def step_apart(self) -> list[Handle]:
        """Let each request take a step by itself, as is due after a step that raised.

        One that raises alone ends with its error, and disturbs the others no more.
        """
        news: dict[Handle, None] = {}
        for job in list(self._jobs.values()):
            if job.handle not in self._jobs:
                continue
            with self._scheduler.alone(job):
                try:
                    news |= dict.fromkeys(self.step())
                except Exception as error:
                    self._break_off(job, "error", f"{type(error).__name__}: {first_line(error)}")
        last, self._news = self._news, {}
        return list(news | last)

    def _guess(self) -> None:
        """Let texts that are being written have guesses, if a pass has room for some."""
        running = self._scheduler.running
        most = PASS // max(1, len(running)) - 1
        if self._speculation is None or most < 1:
            return
        single = [group.texts[0] for group in running if group.owner.beams is None]
        texts = [text for text in single if text.computed == len(text.ids) - 1]
        for text in texts:
            if text.tried >= TRIED:
                text.rest = REST if text.right < WORTH * text.tried else 0
                text.tried = text.right = 0
            text.rest = max(0, text.rest - 1)
        eager = [text for text in texts if not text.rest and text.left > 1]
        for text, guessed in zip(eager, self._speculation.guess(eager, most) if eager else [], strict=True):
            text.guessed = guessed[: text.left - 1]

    def _read_all(self, pieces: Sequence[Piece]) -> tuple[dict[Continuation, Tensor], set[Continuation]]:
        """The logits after the texts that were read to their end, and after each of their guesses; and the texts whose
        logits are not finite."""
        logits: dict[Continuation, Tensor] = {}
        broken: set[Continuation] = set()
        for together in passes(pieces, self._alone):
            with answering(self.model, [piece.text.owner.adapters for piece in together]):
                rows = self._read(together)
            finite = rows.isfinite().all(-1)
            counts = [1 + len(piece.guesses) for piece in together]
            for piece, own, good in zip(together, rows.split(counts), finite.split(counts), strict=True):
                if piece.stop >= len(piece.text.ids):
                    logits[piece.text] = own
                if not good[0]:
                    broken.add(piece.text)
        for piece in pieces:
            if piece.text not in broken:
                self._scheduler.keep(piece)
        return logits, broken

    def _go_on(self, logits: dict[Continuation, Tensor], broken: set[Continuation]) -> None:
        """Choose the next tokens of the texts that were read to their end."""
        single: list[Group] = []
        for group in list(self._scheduler.running):
            if not broken.isdisjoint(group.texts):
                for one in self._part(group):
                    self._end(one, "error", f"the model's logits after {len(group.texts[0].ids)} tokens are not finite")
            elif not all(text in logits for text in group.texts):
                continue  # more of it is to be read first
            elif group.owner.beams is not None:
                self._search(group, torch.cat([logits[text][:1] for text in group.texts]))
            else:
                rows, parted = logits[group.texts[0]], self._part(group)
                logits |= {one.texts[0]: rows for one in parted}
                single += parted
        place = 0
        while single:
            self._draw(single, torch.stack([logits[group.texts[0]][place] for group in single]))
            single = [group for group in single if self._came(group, place)]
            place += 1

    def _came(self, group: Group, place: int) -> bool:
        """Whether the token just drawn is what was guessed, so that the next one may be drawn at once."""
        (text,) = group.texts
        if text.writer.reason is not None or not text.guessed:
            return False
        if place < len(text.guessed):
            came = text.ids[-1] == text.guessed[place]
            text.tried, text.right = text.tried + 1, text.right + came
            self.guessed, self.came = self.guessed + 1, self.came + came
            if came:
                return True
        self._scheduler.keep(Piece(text, text.computed, len(text.ids) - 1))
        text.guessed = []
        return False

    @cached_property
    def constraints(self) -> Constraints:
        """The forms of texts; one that was read there before, even by another thread, takes `add` no time."""
        if self.tokenizer is None:
            raise UserError("an engine without a tokenizer holds no text to a form")
        return Constraints(self.tokenizer, begins=bool(self.model.encoders))

    def _adapters(self, name: str | None) -> tuple[str, ...]:
        """The adapters that answer a request; UserError where there is none of this name."""
        on = attached(self.model)
        if name is None:
            return on.chosen
        if on.merged is not None:
            raise UserError(f'an adapter is merged into the weights; unmerge it before "{name}" is asked for')
        if name != BASE:
            on.adapter(name)
        return () if name == BASE else (name,)

    def _alone(self, piece: Piece) -> tuple[str, ...] | None:
        """The adapters of a text whose rows must have them all in a pass; None where each row may have another."""
        on, names = attached(self.model), piece.text.owner.adapters
        if isinstance(self._memory, Sinks):
            return names
        mixes = len(names) < 2 and all(map(on.mixes, names))
        stands = not piece.start and any(on.adapter(name).settings.tokens for name in names)
        return None if mixes and not stands else names

    def _ends(self, request: Request) -> frozenset[int]:
        ends = () if self.tokenizer is None else self.tokenizer.ends
        return frozenset((*ends, *check_ids(request.stop_ids, self._vocabulary, "stop_ids")))

    def _rules(self, request: Request) -> Rules:
        """What may come next: what the model and the request say together."""
        own = Rules.of(self.model.frame, request.search.no_repeat_ngram)
        for name in ("logit_bias", "banned", "forced"):
            check_ids(tuple(getattr(request, name)), self._vocabulary, name)
        banned, forced = (*own.banned, *request.banned), (*own.forced, *request.forced)
        return replace(own, bias=request.logit_bias, banned=banned, forced=forced)

    def _read(self, pieces: Sequence[Piece]) -> Float[Tensor, "rows vocabulary"]:
        """The logits of the token after each piece, and before that those after the tokens of which guesses follow."""
        device, encoded = self.model.device, None
        ids, real = padded([piece.text.tokens(piece.start, piece.stop) for piece in pieces], device)
        if self.model.encoders and not pieces[0].start:
            encoded = self.model.encode(*padded([piece.text.source for piece in pieces], device))
        hidden = self._memory.read(ids, real, pieces, encoded)
        for row, piece in zip(hidden, pieces, strict=True):
            self._measure_prompt(row, piece)
        places = [(row, n) for row, p in enumerate(pieces) for n in range(p.length - 1 - len(p.guesses), p.length)]
        rows, last = torch.tensor(places, device=device).T
        logits: Tensor = self.model.head(hidden[rows, last])
        return logits[:, : self._vocabulary]

    def _measure_prompt(self, hidden: Float[Tensor, "time dim"], piece: Piece) -> None:
        """The log-probabilities of the tokens of a prompt, where they are wanted and not known yet."""
        job, ids = piece.text.owner, piece.text.ids
        top, stop = job.request.prompt_logprobs, min(piece.stop, piece.text.prompt - 1)
        while top is not None and (start := len(job.prompt_logprobs)) < stop:
            chunk = slice(start - piece.start, min(start + ROWS, stop) - piece.start)
            with answering(self.model, [job.adapters]):  # not by rows: these are of one text
                rows = self.model.head(hidden[chunk])[:, : self._vocabulary]
            job.prompt_logprobs += logprobs_of(rows, ids[start + 1 : start + 1 + len(rows)], top)

    def _part(self, group: Group) -> list[Group]:
        """A group for each text of a request, which go their own ways once its prompt is read."""
        job, first, groups = group.owner, group.texts[0], [group]
        if job.beams is None:
            for number in range(1, group.seats):
                text = first.another(number)
                self._scheduler.share(first, text)
                groups.append(Group(job, (*group.order[:2], number), [text]))
            self._scheduler.running += groups[1:]
            job.groups += groups[1:]
            group.seats = 1
        return groups

    def _draw(self, groups: Sequence[Group], logits: Float[Tensor, "rows vocabulary"]) -> None:
        """Choose the next token of each text."""
        texts, jobs = [group.texts[0] for group in groups], [group.owner for group in groups]
        written, new, left = [t.ids for t in texts], [t.new for t in texts], [t.left - 1 for t in texts]
        samplings = [job.request.sampling for job in jobs]
        ruled = apply_rules(logits, [job.rules for job in jobs], written, new, left)
        matchers = [t.matcher if t.owner.rules.next(t.new, t.left - 1) is None else None for t in texts]
        ruled = hold(ruled, matchers)
        possible = (ruled > -torch.inf).any(-1).tolist()
        tokens = draw(adjust(ruled, samplings, written, new), samplings, [text.generator for text in texts])
        tops = {row: job.request.logprobs or 0 for row, job in enumerate(jobs) if job.measures}
        measured: dict[int, Logprob] = {}
        for top in set(tops.values()):
            rows = [row for row, own in tops.items() if own == top]
            some = logits if len(rows) == len(jobs) else logits[rows]
            measured |= zip(rows, logprobs_of(some, [tokens[row] for row in rows], top), strict=True)
        for row, (group, text, token) in enumerate(zip(groups, texts, tokens, strict=True)):
            if not possible[row]:
                matcher = matchers[row]
                failed = None if matcher is None else matcher.error
                self._end(group, "error", failed or "the rules for the next token leave none")
                continue
            if row in measured:
                text.logprobs.append(measured[row])
            text.ids.append(token)
            self._hear(text, text.writer.take(token))
            complete = (matcher := matchers[row]) is not None and matcher.take(token)
            if text.matcher is not None and not text.left:
                complete = text.matcher.complete
                text.writer.reason = text.writer.reason if complete else "length"  # though an end was forced
            if text.writer.reason is not None or complete or not text.left:
                self._end(group, "end" if complete else "length")

    def _search(self, group: Group, logits: Float[Tensor, "beams vocabulary"]) -> None:
        """Go on with the best hypotheses of a beam search."""
        job, texts = group.owner, group.texts
        assert job.beams is not None
        left, count = texts[0].left - 1, len(texts)
        scores, written = logits.float().log_softmax(-1), [text.ids for text in texts]
        scores = apply_rules(scores, [job.rules] * count, written, [texts[0].new] * count, [left] * count)
        parents = job.beams.advance(scores, left)
        if not job.beams.open:
            self._end(group, "length")
            return
        group.texts = [copy(texts[parent]) for parent in parents]
        for text, parent, (_, tokens) in zip(group.texts, parents, job.beams.live, strict=True):
            self._scheduler.share(texts[parent], text)
            text.ids = [*text.ids, tokens[-1]]
        for old in texts:
            self._scheduler.release(old)

    def _hear(self, text: Continuation, piece: str) -> None:
        """Pass on a piece of a text that is final."""
        if piece and not text.owner.ranked:
            text.owner.handle.hear(text.number, piece, text.logprobs)
            self._news[text.owner.handle] = None

    def _break_off(self, job: Job, reason: Reason, error: str | None = None) -> None:
        """End a request where it is."""
        for group in list(job.groups):
            for one in self._part(group):
                self._end(one, reason, error)

    def _end(self, group: Group, reason: Reason, error: str | None = None) -> None:
        """Let the texts of a group go; with the last of a request's, it is done."""
        job, texts = group.owner, group.texts
        self._scheduler.leave(group)
        job.groups.remove(group)
        if job.beams is not None:
            best = job.beams.best(job.request.n)
            texts = [texts[0].another(number) for number in range(job.request.n)]
            for text in texts[len(best) :]:
                text.error = error or "the search found no more texts that its rules allow"
            for text, tokens in zip(texts, best, strict=False):
                for token in tokens:
                    if text.writer.reason is None:
                        text.writer.take(token)
                        text.ids.append(token)
        for text in texts:
            text.error = text.error or error
            self._hear(text, text.writer.close("error" if text.error else reason))
        job.end(texts)
        if not job.groups:
            del self._jobs[job.handle]
            self._timed.discard(job)
            self._news[job.handle] = None


def passes(pieces: Iterable[Piece], alone: Callable[[Piece], Any] = lambda piece: None) -> list[list[Piece]]:
    """Pieces that are read in one forward pass each: from the beginning of their texts or not, and alike in length.

    alone: what else those of one pass have in common.

    One row of all tokens, prompts beside single ones, would spare a step that reads a prompt of 64 tokens a tenth of
    its time (124M parameters, 16 texts), and other steps nothing. Rows of their own are what experts with a capacity,
    layers with a memory and virtual tokens understand.
    """
    found: list[list[Piece]] = []
    real = 0
    kind = {piece: (not piece.start, alone(piece)) for piece in pieces}
    for piece in sorted(kind, key=lambda piece: (kind[piece][0], str(kind[piece][1]), piece.work)):
        if found and kind[piece] == kind[found[-1][0]]:
            padding = piece.work * (len(found[-1]) + 1) - real - piece.work
            if padding <= max(PASS, real // 4):
                found[-1].append(piece)
                real += piece.work
                continue
        found.append([piece])
        real = piece.work
    return found


def logprobs_of(logits: Float[Tensor, "rows vocabulary"], tokens: Sequence[int], top: int) -> list[Logprob]:
    """The log-probability of a token in each row, and of the likeliest ones."""
    scores = logits.float().log_softmax(-1)
    best = scores.topk(min(top, scores.shape[1]))
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    own = scores.gather(1, torch.tensor(tokens, device=scores.device)[:, None])[:, 0].tolist()
    return [
        Logprob(token, value, tuple(zip(*named, strict=True)))
        for token, value, named in zip(tokens, own, likeliest, strict=True)
    ]


def _affordable(model: Model, memory: int | None, batch: int, longest: int | None, size: int, each: int) -> int:
    """Blocks of `each` bytes that a memory holds, or that the texts of a batch want."""
    if not each:
        return 1
    if memory is not None:
        check_flag("memory", memory, memory >= each, f"at least {each:,} bytes, which one block takes")
        return memory // each
    wanted = batch * PagedCache.blocks_for(model, longest or model.context or LONGEST, size)
    return max(1, min(wanted, int(SHARE * free_memory(model.device)) // each))
