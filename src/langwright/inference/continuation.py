"""What an engine works on: requests, their texts, and the pieces of texts that it reads."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from langwright.inference.beam import Hypotheses
from langwright.inference.blocks import Table
from langwright.inference.constraints import Matcher
from langwright.inference.request import Completion, Handle, Logprob, Request, Writer
from langwright.inference.sampling import Rules


@dataclass(eq=False)
class Job:
    """A request on its way: what its texts have in common.

    Args:
        request, handle: what was asked, and what comes of it.
        rules: for the next token.
        ends: the ids that end a text.
        until: when it ends as it is, by the engine's clock.
        beams: the hypotheses of a search.

    Attributes:
        prompt_logprobs: of the tokens of the prompt that were read.
        ended: the texts that have ended.
    """

    request: Request
    handle: Handle
    rules: Rules
    ends: frozenset[int]
    until: float = math.inf
    beams: Hypotheses | None = None
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

    def hear(self, number: int, piece: str) -> None:
        """Pass on a piece of a text that is final."""
        if piece and not self.ranked:
            self.handle.hear(number, piece)

    def end(self, texts: list["Continuation"]) -> None:
        """Take in texts that have ended; with the last of them the handle is done."""
        self.ended += texts
        if self.beams is None and len(self.ended) < self.request.texts:
            return
        self.ended.sort(key=lambda text: text.number)
        if self.ranked and self.beams is None:
            self.ended = sorted(self.ended, key=lambda text: (text.error is not None, -text.mean_logprob))[
                : self.request.n
            ]
        self.handle.completions = [text.completion() for text in self.ended]
        if self.ranked:
            for number, completion in enumerate(self.handle.completions):
                self.handle.hear(number, completion.text)


@dataclass(eq=False)
class Continuation:
    """One text in the making: its tokens, and where what the model keeps of them lies.

    Args:
        owner: the request that it belongs to.
        ids: prompt and what followed; for an encoder-decoder the target.
        prompt: how many of them are the prompt.
        limit: the most tokens that may follow it.
        generator: draws its tokens.
        writer: makes words of them.
        source: the ids that an encoder reads.
        number: among the texts of the request.
        matcher: how far it has come in the form that it is to have.

    Attributes:
        computed: how many tokens the model has read and keeps.
        tables: the blocks of the text, and those of its source.
        carried: what layers without attention keep of it, by layer.
        state: a state of its own, where it does not lie in blocks (`sinks.py`).
        logprobs: of what followed, where they are wanted.
        error: what went wrong.
    """

    owner: Job
    ids: list[int]
    prompt: int
    limit: int
    generator: torch.Generator
    writer: Writer
    source: tuple[int, ...] = ()
    number: int = 0
    matcher: Matcher | None = None
    computed: int = 0
    tables: tuple[Table, Table] = field(default_factory=lambda: ([], []))
    carried: dict[int, Tensor] = field(default_factory=dict)
    state: Any = None
    logprobs: list[Logprob] = field(default_factory=list)
    error: str | None = None

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

    def completion(self) -> Completion:
        """What came of it."""
        request = self.owner.request
        assert self.writer.reason is not None
        return Completion(
            self.writer.text,
            self.writer.ids,
            self.writer.reason,
            self.error,
            None if request.logprobs is None else self.logprobs,
            None if request.prompt_logprobs is None else self.owner.prompt_logprobs,
        )


class Piece(NamedTuple):
    """Tokens of a text that one forward pass reads, from `start` to before `stop`."""

    text: Continuation
    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many."""
        return self.stop - self.start
