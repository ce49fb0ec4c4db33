"""Prompts and answers as tokens, and batches of them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.base.console import format_amount, say, warn
from langwright.base.errors import UserError
from langwright.corpora.preferences import Asked, Judged, Preference, Ranking
from langwright.data.examples import ExampleRows, Ids, padded
from langwright.objectives.preferences import JudgedBatch, PreferenceBatch
from langwright.text.chat_template import ChatTemplate, own_template
from langwright.text.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class AnswerExample:
    """An answer behind its prompt.

    Args:
        ids: token ids.
        first: the place of the answer's first token.
        types: the type of each token, where texts are pairs.
        cut: whether the answer lost its end.
    """

    ids: Ids
    first: int
    types: Ids | None = None
    cut: bool = False

    @property
    def length(self) -> int:
        """Tokens of the answer, its end included."""
        return len(self.ids) - self.first

    @property
    def identity(self) -> bytes:
        """What tells it from others: its ids, and where the answer begins."""
        return len(self.ids).to_bytes(8, "little") + self.first.to_bytes(8, "little") + self.ids.tobytes()


@runtime_checkable
class AnswerFormat(Protocol):
    """How a prompt and an answer become tokens: the same for who writes answers and for who scores them.

    Attributes:
        name: what records call it.
        tokenizer: makes the ids.
    """

    name: ClassVar[str]

    @property
    def tokenizer(self) -> Tokenizer: ...

    def prompt_ids(self, prompt: Asked) -> list[int]:
        """The ids after which an answer is written."""

    def encode(self, prompt: Asked, answer: str, limit: int, *, ended: bool = True) -> AnswerExample:
        """The ids of a prompt and an answer with the token that ends it, if it has ended, at most `limit` of them."""


@final
@dataclass(frozen=True, eq=False)
class Conversing:
    """Prompts are conversations in a chat template; one of text is what a user says.

    Args:
        template: with its tokenizer.
    """

    name: ClassVar[str] = "chat"
    template: ChatTemplate

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the template."""
        return self.template.tokenizer

    def prompt_ids(self, prompt: Asked) -> list[int]:
        """See `AnswerFormat`."""
        return self.template.prompt_ids(_messages(prompt))

    def encode(self, prompt: Asked, answer: str, limit: int, *, ended: bool = True) -> AnswerExample:
        """See `AnswerFormat`; what a template writes behind the end of an answer is left out."""
        messages = [*_messages(prompt), {"role": "assistant", "content": answer}]
        encoded = self.template.encode(messages, None, [len(messages) - 1])
        (at,) = np.nonzero(np.array(encoded.trained))
        if not len(at):
            raise UserError("the chat template leaves the answer out")
        ids = np.array(encoded.ids[: at[-1] + ended], np.int64)  # the last one of an answer is its end
        return AnswerExample(ids[:limit], int(at[0]), cut=len(ids) > limit)


@final
@dataclass(frozen=True, eq=False)
class Continuing:
    """Prompts are texts that answers go on with; of a conversation they are its messages, a line each.

    Args:
        tokenizer: of the model.
    """

    name: ClassVar[str] = "text"
    tokenizer: Tokenizer

    def prompt_ids(self, prompt: Asked) -> list[int]:
        """See `AnswerFormat`."""
        return [*self.tokenizer.opening, *self.tokenizer.encode(text_of(prompt))]

    def encode(self, prompt: Asked, answer: str, limit: int, *, ended: bool = True) -> AnswerExample:
        """See `AnswerFormat`."""
        before, end = self.prompt_ids(prompt), self.tokenizer.eos_id
        ends = (end,) if ended and end is not None else ()
        ids = np.array([*before, *self.tokenizer.encode(answer), *ends], np.int64)
        return AnswerExample(ids[:limit], len(before), cut=len(ids) > limit)


@final
@dataclass(frozen=True, eq=False)
class Pairing:
    """Prompt and answer are a pair of texts between an encoder's special tokens.

    Args:
        tokenizer: of the model.
    """

    name: ClassVar[str] = "pair"
    tokenizer: Tokenizer

    def prompt_ids(self, prompt: Asked) -> list[int]:
        """See `AnswerFormat`."""
        return self.tokenizer.frame(text_of(prompt))[0]

    def encode(self, prompt: Asked, answer: str, limit: int, *, ended: bool = True) -> AnswerExample:
        """See `AnswerFormat`; of a pair that is too long the longer text loses its end, and no pair its frame."""
        ids, types = self.tokenizer.frame(text_of(prompt), answer, limit=limit)
        cut = len(ids) == limit and len(self.tokenizer.frame(text_of(prompt), answer)[0]) > limit
        first = min(len(self.prompt_ids(prompt)), len(ids) - 1)
        return AnswerExample(np.array(ids, np.int64), first, np.array(types, np.int64), cut)


def format_of(name: str, tokenizer: Tokenizer, where: str) -> AnswerFormat:
    """The format of a record; UserError where the tokenizer has no chat template and needs one.

    Args:
        name: see `AnswerFormat`.
        tokenizer: of the model.
        where: its folder, for errors.
    """
    if name != Conversing.name:
        return (Pairing if name == Pairing.name else Continuing)(tokenizer)
    template = own_template(tokenizer, where)
    if template is None:
        raise UserError(f"{where}: has no chat template, by which the model reads conversations")
    return Conversing(template)


def text_of(prompt: Asked) -> str:
    """A prompt as text; of a conversation its messages, a line each."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _messages(prompt: Asked) -> list[Any]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


@dataclass(frozen=True, eq=False)
class RankedExample:
    """Answers to one prompt in order, the best one first.

    Args:
        answers: each behind the prompt.
        margin: see `PreferenceBatch`.
    """

    answers: tuple[AnswerExample, ...]
    margin: float = 0.0


@dataclass
class Fitting:
    """Answers behind their prompts, cut to a context; what was cut is counted.

    Args:
        form: how they become tokens.
        context: the most tokens.
        skip: whether a prompt that leaves no room for an answer is left out instead of refused.
    """

    form: AnswerFormat
    context: int
    skip: bool = False
    cut: int = 0
    left: int = 0

    def prompt_ids(self, prompt: Asked, source: str) -> list[int] | None:
        """The ids of a prompt; None where it is left out. UserError that names file and row where it is too long."""
        ids = at_row(source, partial(self.form.prompt_ids, prompt))
        if len(ids) < self.context:
            return ids
        if self.skip:
            self.left += 1
            return None
        told = f"the prompt has {len(ids)} tokens and leaves no room for an answer in a context of {self.context}"
        raise UserError(f"{source}: {told}; raise --context, or --skip leaves such rows out")

    def answers(self, prompt: Asked, answers: Sequence[str], source: str) -> tuple[AnswerExample, ...] | None:
        """Each answer behind the prompt; None where the row is left out, errors as for `prompt_ids`."""
        if self.prompt_ids(prompt, source) is None:
            return None
        found = tuple(at_row(source, partial(self.form.encode, prompt, answer, self.context)) for answer in answers)
        self.cut += sum(one.cut for one in found)
        return found

    def tell(self, spec: str) -> None:
        """Warn of what was cut or left out."""
        if self.cut:
            warn(f"{spec}: {self.cut:,} answers lost their ends to the context of {self.context} tokens")
        if self.left:
            warn(f"{spec}: {self.left:,} rows are left out, whose answers are equal or gone inside the context")


def at_row(source: str, make: Callable[[], Any]) -> Any:
    """What a function makes of a row; its errors name the file and the row."""
    try:
        return make()
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def fitted(
    form: AnswerFormat, prompt: Asked, answer: str, context: int, *, ended: bool = True, source: str = ""
) -> AnswerExample:
    """An answer behind its prompt, to be scored: what a context has no room for is cut off.

    Args:
        form: how they become tokens.
        prompt: what was answered.
        answer: without what ends it.
        context: the most tokens.
        ended: whether its writer ended it.
        source: the file and row of the prompt, for errors.

    Raises:
        UserError: The prompt leaves no room for an answer.
    """
    found: AnswerExample = at_row(source, partial(form.encode, prompt, answer, context, ended=ended))
    if found.cut and found.first >= len(found.ids):
        raise UserError(f"{source}: the prompt leaves no room for an answer in a context of {context} tokens")
    return found


def ranked_examples(items: Sequence[Preference | Ranking], fitting: Fitting, spec: str) -> list[RankedExample]:
    """Pairs and rankings as examples; errors as for `Fitting`, and where none is left. spec: where they are from."""
    found = []
    for item in items:
        texts = (item.chosen, item.rejected) if isinstance(item, Preference) else item.answers
        answers = fitting.answers(item.prompt, texts, item.source)
        if answers is None:
            continue
        if len({one.ids.tobytes() for one in answers}) < len(answers):
            fitting.left += 1
            continue
        found.append(RankedExample(answers, item.margin if isinstance(item, Preference) else 0.0))
    if not found:
        raise UserError(f"{spec}: no row has answers that differ within {fitting.context} tokens; raise --context")
    return found


def ranked_rows(examples: Sequence[RankedExample], context: int) -> ExampleRows:
    """Rankings as rows; they are identified by SHA-256 of their ids."""
    content = hashlib.sha256()
    for each in examples:
        content.update(np.float64(each.margin).tobytes())
        for answer in each.answers:
            content.update(answer.identity)
    sizes = np.array([sum(len(answer.ids) for answer in each.answers) for each in examples], dtype=np.int64)
    identity = {"answers": content.hexdigest()}
    return ExampleRows(lambda i, epoch: examples[i], sizes, context, identity, collate=preference_batch)


def preference_batch(
    rows: Sequence[Sequence[RankedExample]], samples: Ids, width: Callable[[int], int]
) -> PreferenceBatch:
    """Rankings, one a row, as tensors, padding (id 0) at the right; see `data.examples.batch_of`."""
    ranked = [example for (example,) in rows]
    most = max(len(each.answers) for each in ranked)
    size = width(max(len(answer.ids) for each in ranked for answer in each.answers))

    def joined(value: Callable[[AnswerExample], NDArray[Any]], absent: NDArray[Any]) -> Any:
        made = [[value(answer) for answer in each.answers] + [absent] * (most - len(each.answers)) for each in ranked]
        return torch.from_numpy(np.stack([padded([[part] for part in row], size) for row in made]))

    none = np.zeros(1, np.int64)
    types = [answer.types for each in ranked for answer in each.answers]
    return PreferenceBatch(
        ids=joined(lambda answer: answer.ids, none),
        mask=joined(lambda answer: np.ones(len(answer.ids), bool), np.ones(1, bool)),
        written=joined(lambda answer: np.arange(len(answer.ids)) >= answer.first, np.zeros(1, bool)),
        there=torch.tensor([[i < len(each.answers) for i in range(most)] for each in ranked]),
        margins=torch.tensor([each.margin for each in ranked], dtype=torch.float32),
        types=None if any(t is None for t in types) else joined(lambda answer: np.asarray(answer.types), none),
        samples=torch.from_numpy(samples),
    )


@dataclass(frozen=True, eq=False)
class JudgedExample:
    """An answer that is good or bad, and one to another prompt.

    Args:
        answer: behind its prompt.
        other: another prompt's answer behind the same prompt.
        good: whether the first one is.
    """

    answer: AnswerExample
    other: AnswerExample
    good: bool


def judged_examples(items: Sequence[Judged], fitting: Fitting, spec: str) -> list[JudgedExample]:
    """Judged answers as examples, each beside the answer to the next row with another prompt; errors as for `Fitting`.

    spec: where they are from; UserError where all rows have one prompt.
    """
    fit = [(item, found) for item in items if (found := fitting.answers(item.prompt, [item.answer], item.source))]
    if len({item.key for item, _ in fit}) < 2:
        raise UserError(f"{spec}: all rows have one prompt; kto compares with answers to other prompts")
    keys = [item.key for item, _ in fit]
    after, nearest = [0] * len(fit), 0
    for i in reversed(range(2 * len(fit))):  # twice around: behind the last row comes the first
        here, following = i % len(fit), (i + 1) % len(fit)
        nearest = following if keys[following] != keys[here] else nearest
        after[here] = nearest
    examples = []
    for (item, (answer,)), other in zip(fit, after, strict=True):
        mismatched = fitting.form.encode(item.prompt, fit[other][0].answer, fitting.context)
        examples.append(JudgedExample(answer, mismatched, item.good))
    return examples


def judged_rows(examples: Sequence[JudgedExample], context: int) -> ExampleRows:
    """Judged answers as rows; they are identified by SHA-256 of their ids."""
    content = hashlib.sha256()
    for each in examples:
        content.update(bytes([each.good]))
        for answer in (each.answer, each.other):
            content.update(answer.identity)
    sizes = np.array([len(each.answer.ids) + len(each.other.ids) for each in examples], dtype=np.int64)
    identity = {"judged": content.hexdigest()}
    return ExampleRows(lambda i, epoch: examples[i], sizes, context, identity, collate=judged_batch)


def judged_batch(rows: Sequence[Sequence[JudgedExample]], samples: Ids, width: Callable[[int], int]) -> JudgedBatch:
    """Judged answers, one a row, as tensors; see `preference_batch`."""
    judged = [example for (example,) in rows]
    both = preference_batch([[RankedExample((each.answer, each.other))] for each in judged], samples, width)
    good = torch.tensor([each.good for each in judged])
    return JudgedBatch(both.ids, both.mask, both.written, good, samples=both.samples)


def tell_rows(spec: str, training: int, held_out: int, tokens: int) -> None:
    """Say how many rows there are to learn from and to measure on, and how long their answers are."""
    say(f"{spec}: {training:,} rows to learn from with {format_amount(tokens, 'tokens')}, {held_out:,} held out")
