"""How the tokens of a corpus become rows: one class for text that is continued, one for text with noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from langwright.base.console import say
from langwright.data.next_sentence import next_sentence_rows
from langwright.data.noise import Cut, Denoising, Masking, SpanCorruption, longest
from langwright.data.pieces import Continued, Corruption, Framing, Masked, Paired, pieces
from langwright.data.shards import Tokens
from langwright.data.supply import Rows
from langwright.data.windows import Windows
from langwright.text.special_tokens import SpecialTokens
from langwright.text.tokenizer import Tokenizer

NEW = SpecialTokens(bos="<|bos|>", eos="<|eos|>", pad="<|pad|>", mask="<|mask|>")
"""The names of special tokens that a tokenizer lacks."""
SENTINEL = "<extra_id_{}>"
SENTINELS = 100
"""As many as T5 has; more where the texts are so long that they need them."""


@runtime_checkable
class Reading(Protocol):
    """How the tokens of a corpus become rows."""

    @property
    def predicts_all(self) -> bool:
        """Whether every byte of the held-out text is predicted once, so that bits per byte mean something."""

    def ready(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer, with the special tokens that are needed."""

    def rows(self, tokenizer: Tokenizer, tokens: Tokens, seed: int, training: bool) -> Rows:
        """The rows of one side of the split."""


@dataclass(frozen=True)
class Continuing:
    """Every token predicts the next one.

    Args:
        context: inputs a row at most.
        crossing: let training windows run over the bounds of documents.
        packing: several documents share a training row, none of which sees another.
    """

    context: int
    crossing: bool = False
    packing: bool = False
    predicts_all: ClassVar[bool] = True

    def ready(self, tokenizer: Tokenizer) -> Tokenizer:
        """It needs no special tokens."""
        return tokenizer

    def rows(self, tokenizer: Tokenizer, tokens: Tokens, seed: int, training: bool) -> Rows:
        """Windows, or packed pieces."""
        if training and self.packing:
            return pieces(tokens, Continued(), self.context, seed, overlap=1, packing=True)
        return Windows(tokens, self.context, self.crossing and training, once=not training)


@dataclass(frozen=True)
class Noisy:
    """Noise takes something from a text, which the model puts back.

    Args:
        objective: one of `CORRUPTIONS`.
        context: inputs a row at most.
        frame: what stands around a text, given the tokenizer.
        share: of the tokens that the noise takes; None for the usual one of the objective.
        mean: tokens of a span on average; None for the usual one of the objective.
        whole_words: mask whole words.
        next_sentence: masked texts are pairs, of which it is asked whether they belong together.
        permute, delete, rotate: see `Denoising`.
        packing: several pieces share a row, none of which sees another.
    """

    objective: str
    context: int
    frame: Callable[[Tokenizer], Framing]
    share: float | None = None
    mean: float | None = None
    whole_words: bool = False
    permute: bool = True
    delete: float = 0.0
    rotate: float = 0.0
    packing: bool = False
    next_sentence: bool = False
    predicts_all: ClassVar[bool] = False

    def ready(self, tokenizer: Tokenizer) -> Tokenizer:
        """With a mask or sentinels, and ends of texts."""
        needed = 0
        if self.objective == "span":
            noise = SpanCorruption(range(self.context), self.share or 0.15, self.mean or 3.0)
            needed = max(SENTINELS, noise.counts(longest(noise.sizes, self.context))[1])
        return framed(with_special_tokens(tokenizer, self.objective in ("masked", "denoise"), needed), self.frame)

    def rows(self, tokenizer: Tokenizer, tokens: Tokens, seed: int, training: bool) -> Rows:
        """Pieces of documents; those of held-out ones are never packed."""
        frame = self.frame(tokenizer)
        corruption = CORRUPTIONS[self.objective](self, tokenizer, frame)
        around = len(tokenizer.opening), 0 if tokenizer.eos_id is None else 1
        if self.next_sentence and isinstance(corruption, Masked):
            return next_sentence_rows(tokens, corruption.noise, frame, self.context, seed, around)
        return pieces(tokens, corruption, self.context, seed, around, packing=self.packing and training)


def _masked(how: Noisy, tokenizer: Tokenizer, frame: Framing) -> Corruption:
    assert tokenizer.mask_id is not None
    starts = _ids_where(tokenizer, lambda text: text[:1].isspace()) if how.whole_words else None
    return Masked(Masking(tokenizer.mask_id, tokenizer.vocab_size, how.share or 0.15, starts), frame)


def _span(how: Noisy, tokenizer: Tokenizer, frame: Framing) -> Corruption:
    return Paired(SpanCorruption(sentinels(tokenizer), how.share or 0.15, how.mean or 3.0), frame)


def _denoise(how: Noisy, tokenizer: Tokenizer, frame: Framing) -> Corruption:
    assert tokenizer.mask_id is not None
    stops = _ids_where(tokenizer, lambda text: text.rstrip()[-1:] in (b".", b"!", b"?") or b"\n" in text)
    share, mean = 0.3 if how.share is None else how.share, how.mean or 3.5
    return Paired(Denoising(tokenizer.mask_id, share, mean, how.permute, stops, how.delete, how.rotate), frame)


CORRUPTIONS: Mapping[str, Callable[[Noisy, Tokenizer, Framing], Corruption]] = {
    "masked": _masked,
    "prefix": lambda how, tokenizer, frame: Paired(Cut(), frame),
    "span": _span,
    "denoise": _denoise,
}
"""What each objective makes of a piece of text."""


def with_special_tokens(tokenizer: Tokenizer, mask: bool = False, spans: int = 0) -> Tokenizer:
    """A tokenizer with ends of texts and padding, which gets what it lacks; its own ids stay.

    Args:
        tokenizer: any.
        mask: whether it needs a mask, and what stands around a text that an encoder reads.
        spans: how many sentinels it needs.
    """
    has = tokenizer.special_tokens
    wanted = replace(NEW, mask=NEW.mask if mask else None)
    special = SpecialTokens(**{kind: token or getattr(wanted, kind) for kind, token in vars(has).items()})
    if mask:
        special = replace(special, cls=special.cls or special.bos, sep=special.sep or special.eos)
    known = len(sentinels(tokenizer)) if spans else 0
    added = [token for kind, token in vars(special).items() if token not in (None, *vars(has).values())]
    gaps = [SENTINEL.format(i) for i in range(known, spans)]
    added += gaps
    if special == has and not added:
        return tokenizer
    if added:
        shown = added if len(added) < 5 else [*added[:2], "...", added[-1]]
        say(f"new special tokens: {', '.join(shown)}")
    return tokenizer.extended(list(dict.fromkeys(added)), special, gaps={*gaps, special.mask or ""})


def framed(tokenizer: Tokenizer, frame: Callable[[Tokenizer], Framing]) -> Tokenizer:
    """The tokenizer, which puts around a text what training does."""
    around = frame(tokenizer)
    return tokenizer.framed(around.first, around.last)


def sentinels(tokenizer: Tokenizer) -> list[int]:
    """The ids of the sentinels that a tokenizer has, in the order of their use."""
    ids = {tokenizer.token(id): id for id in tokenizer.special_ids}
    found = (ids.get(SENTINEL.format(i)) for i in range(len(ids)))
    return [id for id in found if id is not None]


def _ids_where(tokenizer: Tokenizer, holds: Callable[[bytes], bool]) -> NDArray[np.bool_]:
    """For each id whether its text has a property."""
    return np.array([holds(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)])
