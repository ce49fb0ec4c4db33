"""What an engine works on: requests, their texts, and the pieces of texts that it reads."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from langwright.inference.beam import Hypotheses
from langwright.inference.blocks import Table
from langwright.inference.constraints import Matcher
from langwright.inference.request import Completion, Handle, Logprob, Request, Writer
from langwright.inference.sampling import Rules
from langwright.text.tokenizer import Tokenizer


@dataclass(eq=False)
class Job:
    """A request on its way: what its texts have in common.

    Args:
        request, handle: what was asked, and what comes of it.
        tokenizer: None where no text is wanted.
        rules: for the next token.
        ends: the ids that end a text.
        until: when it ends as it is, by the engine's clock.
        beams: the hypotheses of a search.
        form: what its texts are to have, before their first token.
        adapters: those that answer.

    Attributes:
        groups: of its texts that are on their way.
        prompt_logprobs: of the tokens of the prompt that were read.
        ended: the texts that have ended.
    """

    request: Request
    handle: Handle
    tokenizer: Tokenizer | None
    rules: Rules
    ends: frozenset[int]
    until: float = math.inf
    beams: Hypotheses | None = None
    form: Matcher | None = None
    adapters: tuple[str, ...] = ()
    groups: list["Group"] = field(default_factory=list)
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    ended: list["Continuation"] = field(default_factory=list)

    @property
    def ranked(self) -> bool:
        """Whether the best of several texts are chosen at the end."""
        return self.beams is not None or self.request.texts > self.request.n

    @property
    def measures(self) -> bool:
        """Whether log-probabilities of new tokens are wanted."""
        return self.request.logprobs is not None or self.ranked

    def end(self, texts: list["Continuation"]) -> None:
        """Take in texts that have ended; with the last of them the handle is done."""
        self.ended += texts
        if self.groups:
            return
        self.handle.written = sum(text.new for text in self.ended)
        best = sorted(self.ended, key=lambda text: text.number)
        if self.request.texts > self.request.n:
            best.sort(key=lambda text: (text.error is not None, -text.mean_logprob))
        self.handle.completions = [text.completion() for text in best[: self.request.n]]
        if self.ranked:
            for number, completion in enumerate(self.handle.completions):
                self.handle.hear(number, completion.text, completion.logprobs or [])


@dataclass(eq=False)
class Continuation:
    """One text in the making: its tokens, and where what the model keeps of them lies.

    Args:
        owner: the request that it belongs to.
        ids: prompt and what followed; for an encoder-decoder the target.
        prompt: how many of them are the prompt.
        limit: the most tokens that may follow it.
        source: the ids that an encoder reads.
        number: among the texts of the request.

    Attributes:
        computed: how many tokens the model has read and keeps.
        tables: the blocks of the text, and those of its source.
        guessed: tokens that may follow, which the next pass reads too.
        tried, right, rest: how many were guessed, how many of them came, and for how many tokens none is guessed.
        names: of the blocks that its tokens fill (`Blocks`), as far as they were wanted.
        carried: what layers without attention keep of it, by layer.
        state: a state of its own, where it does not lie in blocks (`sinks.py`).
        logprobs: of what followed, where they are wanted.
        error: what went wrong.
    """

    owner: Job
    ids: list[int]
    prompt: int
    limit: int
    source: tuple[int, ...] = ()
    number: int = 0
    computed: int = 0
    tables: tuple[Table, Table] = field(default_factory=lambda: ([], []))
    names: list[bytes] = field(default_factory=list)
    guessed: list[int] = field(default_factory=list)
    tried: int = 0
    right: int = 0
    rest: int = 0
    carried: dict[int, Tensor] = field(default_factory=dict)
    state: Any = None
    logprobs: list[Logprob] = field(default_factory=list)
    error: str | None = None

    @cached_property
    def generator(self) -> torch.Generator:
        """Draws its tokens; 5 kB, which texts that only wait do not have."""
        return torch.Generator().manual_seed((self.owner.request.sampling.seed + self.number) % 2**63)

    @cached_property
    def writer(self) -> Writer:
        """Makes words of its tokens."""
        return Writer(self.owner.tokenizer, self.ids[: self.prompt], self.owner.ends, self.owner.request.stop)

    @cached_property
    def matcher(self) -> Matcher | None:
        """How far it has come in the form that it is to have."""
        return None if self.owner.form is None else self.owner.form.copy()

    def tokens(self, start: int, stop: int) -> list[int]:
        """Some of its tokens, and of those that are guessed."""
        return (self.ids + self.guessed)[start:stop] if self.guessed else self.ids[start:stop]

    @property
    def new(self) -> int:
        """How many tokens followed the prompt."""
        return len(self.ids) - self.prompt

    @property
    def left(self) -> int:
        """How many may follow."""
        return self.limit - self.new

    @property
    def mean_logprob(self) -> float:
        """Of a token; -inf before the first."""
        return sum(one.logprob for one in self.logprobs) / len(self.logprobs) if self.logprobs else -math.inf

    def another(self, number: int) -> "Continuation":
        """One more text after the same prompt, of which nothing is written."""
        return Continuation(self.owner, self.ids[: self.prompt], self.prompt, self.limit, self.source, number)

    def completion(self) -> Completion:
        """What came of it."""
        request = self.owner.request
        assert self.writer.reason is not None
        return Completion(
            self.writer.text,
            self.ids[self.prompt :],
            self.writer.reason,
            self.error,
            None if request.logprobs is None else self.logprobs,
            None if request.prompt_logprobs is None else self.owner.prompt_logprobs,
        )


@dataclass(eq=False)
class Group:
    """Texts that go on together: one, or the beams of a search.

    Args:
        owner: the request that they belong to.
        order: who goes first: the negative priority, then the number of the arrival, and of the text.
        texts: the texts.
        seats: how many there are once the prompt is read.
    """

    owner: Job
    order: tuple[int, int, int]
    texts: list[Continuation]
    seats: int = 1


class Piece(NamedTuple):
    """Tokens of a text that one forward pass reads, from `start` to before `stop`; its source too, with the first."""

    text: Continuation
    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def guesses(self) -> list[int]:
        """The guesses that it holds."""
        return self.text.guessed[: max(0, self.stop - len(self.text.ids))]

    @property
    def work(self) -> int:
        """How many the model reads, those of the source among them."""
        return self.length + (0 if self.start else len(self.text.source))
