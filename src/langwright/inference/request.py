"""What is asked of an engine, and what comes of it."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from langwright.base.errors import UserError, check_flag
from langwright.inference.constraints import Constraint
from langwright.inference.sampling import Sampling, Search
from langwright.text.tokenizer import StreamDecoder, Tokenizer

Reason = Literal["length", "end", "stop", "cancelled", "deadline", "error"]
MOST_TEXTS, MOST_LOGPROBS, MOST_BIAS = 256, 100, 1e6


@dataclass(frozen=True)
class Request:
    """A prompt and how it is continued.

    Args:
        prompt: a text, or ids, as a chat template makes them; for an encoder-decoder what the encoder reads.
        sampling: how tokens are drawn.
        max_new_tokens: by default what the context has room for, at most 256.
        stop: strings that end a text; they and what follows are left out.
        stop_ids: ids that end a text beside those of the tokenizer.
        search: beams, and n-grams that may not return.
        n: how many texts to write; number i draws with the seed + i.
        best_of: write so many, and keep the n with the highest mean log-probability of a token; n unless given.
        logit_bias: added to the logits of tokens, by id.
        banned: ids that never come.
        forced: ids that every text begins with.
        logprobs: how many of the likeliest tokens are named beside each new one, with the log-probabilities that the
            model gives them, before any setting of `sampling`; None for no log-probabilities at all.
        prompt_logprobs: the same for the tokens of the prompt, but the first.
        priority: requests with a higher one go first.
        deadline: seconds after which the text ends as it is; None for no end.
        salt: requests share what is kept of a common beginning with those of the same salt alone, so that nobody learns
            from the time it takes what others asked.
        constraint: the form that each text has from its first token to its end.
        adapter: the name of the adapter on the model that answers, or "base" for none; unless given, what is chosen.
    """

    prompt: str | Sequence[int]
    sampling: Sampling = Sampling()
    max_new_tokens: int | None = None
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    search: Search = Search()
    n: int = 1
    best_of: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned: Sequence[int] = ()
    forced: Sequence[int] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    priority: int = 0
    deadline: float | None = None
    salt: str = ""
    constraint: Constraint | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        wanted = self.max_new_tokens
        check_flag("max_new_tokens", wanted, wanted is None or wanted >= 1, "at least 1")
        check_flag("n", self.n, 1 <= self.n <= MOST_TEXTS, f"between 1 and {MOST_TEXTS}")
        check_flag("best_of", self.best_of, self.n <= self.texts <= MOST_TEXTS, f"between n and {MOST_TEXTS}")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            check_flag(name, value, value is None or 0 <= value <= MOST_LOGPROBS, f"between 0 and {MOST_LOGPROBS}")
        for token, bias in self.logit_bias.items():
            check_flag("logit_bias", f"{token}: {bias}", abs(bias) <= MOST_BIAS, f"at most {MOST_BIAS:g} either way")
        if self.deadline is not None:
            check_flag("deadline", self.deadline, 0 < self.deadline < math.inf, "above 0 and finite")
        if "" in self.stop:
            raise UserError("an empty stop string would stop at once; leave it out")
        if self.search.beams > 1:
            self._refuse_draws()
        others: dict[str, object] = {"forced tokens": self.forced, "--stop": self.stop, "stop_ids": self.stop_ids}
        others |= {f"--beams {self.search.beams}": self.search.beams > 1}
        if self.constraint is not None and (other := next((name for name, given in others.items() if given), None)):
            raise UserError(f"--{self.constraint.flag}: has no place beside {other}; drop one")

    @property
    def texts(self) -> int:
        """How many are written."""
        return self.n if self.best_of is None else self.best_of

    def _refuse_draws(self) -> None:
        """Beam search draws nothing: a setting of the draw would be ignored."""
        told = {name: (value, getattr(Sampling(), name)) for name, value in vars(self.sampling).items()}
        told |= {"best_of": (self.best_of, None), "logprobs": (self.logprobs, None)}
        for name, (value, usual) in told.items():
            if value != usual and (name, value) != ("temperature", 0):
                raise UserError(f"--{name.replace('_', '-')} {value}: has no place beside --beams, which draws nothing")
        check_flag("n", self.n, self.n <= self.search.beams, f"at most --beams {self.search.beams}")


class Logprob(NamedTuple):
    """The log-probability of a token, and those of the likeliest in its place, likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
        text: what the ids add to the text of the prompt, so that both joined are the whole text.
        ids: the new tokens.
        reason: the limit was reached, the document ended or a stop id came, a stop string came, it was cancelled, its
            time was over, or something went wrong.
        error: what went wrong.
        logprobs, prompt_logprobs: of each new token, and of the prompt from its second token on, where asked for.
    """

    text: str
    ids: list[int]
    reason: Reason
    error: str | None = None
    logprobs: list[Logprob] | None = None
    prompt_logprobs: list[Logprob] | None = None

    def row(self) -> dict[str, Any]:
        """What JSON says of it."""
        told = {"text": self.text, "tokens": self.ids, "reason": self.reason}
        return told if self.error is None else {**told, "error": self.error}


class Handle:
    """A request on its way.

    Attributes:
        request: what was asked.
        completions: n of them once it is done; before that, none.
        written: how many tokens all texts have, once it is done, those that were not chosen among them.
    """

    def __init__(self, request: Request):
        self.request = request
        self.completions: list[Completion] = []
        self.written = 0
        self._news: dict[int, str] = {}
        self._logprobs: dict[int, list[Logprob]] = {}

    @property
    def done(self) -> bool:
        """Whether all texts have ended."""
        return bool(self.completions)

    def read(self, text: int = 0) -> str:
        """What became final of a text since the last call; all at the end where the best of several are chosen."""
        return self._news.pop(text, "")

    def logprobs(self, text: int = 0) -> Sequence[Logprob]:
        """Those of the tokens of a text so far, as it is read, where they were asked for."""
        return self._logprobs.get(text, ())

    def hear(self, text: int, piece: str, logprobs: list[Logprob]) -> None:
        """Keep a piece of a text until it is read."""
        self._news[text] = self._news.get(text, "") + piece
        if self.request.logprobs is not None:
            self._logprobs[text] = logprobs


class Writer:
    """The text of one sequence: decodes tokens as they come and holds back what may become a stop string.

    Args:
        tokenizer: None where only ids are wanted.
        prompt: the ids before the text.
        ends: the ids that end it.
        stop: the strings that end it.
    """

    def __init__(self, tokenizer: Tokenizer | None, prompt: Sequence[int], ends: Collection[int], stop: Sequence[str]):
        self._ends, self._stop = ends, stop
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer, prompt)
        self._given = 0
        self.text = ""
        self.reason: Reason | None = None

    def take(self, token: int) -> str:
        """Go on with a token; the text that is final by it."""
        if token in self._ends:
            self.reason = "end"
            return ""
        return "" if self._decoder is None else self._extend(self._decoder.feed(token))

    def close(self, reason: Reason) -> str:
        """End the text, for this reason if it has not ended before; what was held back."""
        self.reason = self.reason or reason
        if self.reason == "stop":
            return ""
        last = "" if self._decoder is None else self._extend(self._decoder.flush())
        return last + self._release(len(self.text))

    def _extend(self, text: str) -> str:
        self.text += text
        found = [at for stop in self._stop if (at := self.text.find(stop, self._searched(stop))) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.reason = "stop"
        return self._release(len(self.text) if found else len(self.text) - self._held())

    def _searched(self, stop: str) -> int:
        """Text before this place was searched for the stop string already."""
        return max(0, self._given - len(stop) + 1)

    def _held(self) -> int:
        """How many characters at the end begin a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        sizes = range(min(longest, len(self.text)), 0, -1)
        return next((n for n in sizes if any(stop.startswith(self.text[-n:]) for stop in self._stop)), 0)

    def _release(self, until: int) -> str:
        given, self._given = self._given, max(until, self._given)
        return self.text[given:until]
