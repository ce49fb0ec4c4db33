"""Conversations as training batches: the assistant's tokens weigh 1, everything else 0."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.base.console import format_amount, progress, say, warn
from langwright.base.errors import UserError
from langwright.corpora.conversations import Chat, open_chats
from langwright.data.order import Layout
from langwright.data.packing import pack
from langwright.data.supply import Supply
from langwright.objectives.batch import TokenBatch
from langwright.text.chat_setup import ChatSetup
from langwright.text.chat_template import ChatTemplate, encode, prompt_ids
from langwright.text.tokenizer import Tokenizer

RECORD_VERSION = 1
SPLIT = "5%"
"""What is held out of conversations unless told otherwise: one in twenty, by a hash of its content."""


@final
@dataclass(frozen=True, eq=False)
class Example:
    """One conversation as tokens. trained: true where a token is to be predicted. source: its file and row."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    source: str

    @property
    def inputs(self) -> int:
        """How many places it takes in a row: every token but the last has one that follows it."""
        return len(self.ids) - 1


@final
@dataclass(frozen=True)
class Fitted:
    """Examples that fit a context, and what that cost.

    shortened: examples whose end was cut off. lost: tokens cut off. unanswered: sources of examples that are left out
    because no answer lies inside the context.
    """

    examples: list[Example]
    shortened: int
    lost: int
    unanswered: list[str]

    @property
    def tokens(self) -> int:
        """Tokens that are predicted."""
        return sum(int(example.trained[1:].sum()) for example in self.examples)

    def record(self) -> dict[str, int]:
        """The counts, for the record of a run."""
        return {
            "examples": len(self.examples),
            "tokens": sum(len(example.ids) for example in self.examples),
            "assistant_tokens": self.tokens,
            "shortened": self.shortened,
            "tokens_cut_off": self.lost,
            "left_out": len(self.unanswered),
        }


def fit_examples(chats: Sequence[Chat], template: ChatTemplate, tokenizer: Tokenizer, context: int) -> Fitted:
    """The conversations as examples of at most `context` inputs, their ends cut off where they are longer.

    Raises UserError naming file and row where the template refuses a conversation, or finds nothing to learn in it, or
    every answer is empty; and where not one example has an answer inside the context.
    """
    examples: list[Example] = []
    unanswered: list[str] = []
    shortened = lost = 0
    with progress("tokenising", len(chats), "conversations") as advance:
        for chat in chats:
            if chat.is_silent:
                raise UserError(
                    f"{chat.source}: every answer of the assistant is empty, and a model would learn to say nothing; "
                    "leave the row out, as langwright prepare --check does"
                )
            example = example_of(chat, template, tokenizer)
            advance(1)
            over = example.inputs - context
            if over > 0:
                shortened, lost = shortened + 1, lost + over
                example = Example(example.ids[: context + 1], example.trained[: context + 1], example.source)
                if not example.trained[1:].any():
                    unanswered.append(example.source)
                    continue
            examples.append(example)
    if not examples:
        raise UserError(
            f"{chats[0].source}: no conversation has an answer within {context} tokens; a longer --context is needed"
        )
    return Fitted(examples, shortened, lost, unanswered)


def example_of(chat: Chat, template: ChatTemplate, tokenizer: Tokenizer) -> Example:
    """One conversation as tokens, at its full length; errors as in `fit_examples`."""
    try:
        encoded = encode(template, tokenizer, chat.messages, chat.tools, chat.answers)
    except UserError as error:
        raise UserError(f"{chat.source}: {error}") from None
    if not any(encoded.trained[1:]):
        raise UserError(f"{chat.source}: the chat template leaves nothing to learn from, no token is the assistant's")
    return Example(np.array(encoded.ids, np.int32), np.array(encoded.trained, np.bool_), chat.source)


@final
class ChatBatches:
    """An endless row of training batches: `batch(step)` is the same whenever, and however often, it is asked for."""

    def __init__(self, examples: Sequence[Example], layout: Layout, *, packing: bool = False) -> None:
        """Lay out the rows.

        packing: several examples share a row, none of which sees another; which ones is settled here, once.
        """
        self._examples, self._layout, self._packing = examples, layout, packing
        lengths = [example.inputs for example in examples]
        self._rows = pack(lengths, layout.context) if packing else [[i] for i in range(len(examples))]
        self._mean_length = sum(lengths) / len(self._rows)
        layout.check(self.windows, f"{len(examples)} conversations")

    @property
    def windows(self) -> int:
        """The number of rows, which is the samples of one epoch."""
        return len(self._rows)

    @property
    def tokens_per_step(self) -> int:
        """Real inputs a step, on average."""
        return max(1, round(self._layout.batch_size * self._mean_length))

    def batch(self, step: int) -> TokenBatch:
        """The batch of a step, counted from 0."""
        samples, numbers = self._layout.rows(step, self.windows)
        return batch_of([[self._examples[i] for i in self._rows[n]] for n in numbers], self._layout, samples)

    def record(self) -> dict[str, Any]:
        """What a training checkpoint keeps to know that a resumed run sees the same samples."""
        return {
            "version": RECORD_VERSION,
            "examples": digest(self._examples),
            **self._layout.record(),
            "packing": self._packing,
        }


def evaluation_rows(
    examples: Sequence[Example], context: int, batch_size: int, limit: int | None = None
) -> Iterator[TokenBatch]:
    """Every example once, the longest first, one a row. limit: at most so many, evenly spread over all."""
    count = len(examples) if limit is None else min(limit, len(examples))
    chosen = [i * len(examples) // count for i in range(count)]
    chosen.sort(key=lambda i: -examples[i].inputs)  # those of a batch are about as long
    for start in range(0, count, batch_size):
        numbers = chosen[start : start + batch_size]
        layout = Layout(context, batch_size, 0)
        yield batch_of([[examples[i]] for i in numbers], layout, np.array(numbers, np.int64))


def batch_of(rows: Sequence[Sequence[Example]], layout: Layout, samples: NDArray[np.int64]) -> TokenBatch:
    """Rows of examples as tensors, padding (id 0, weight 0) at the right.

    Where a row holds several, each is a segment of its own, with positions from 0; padding is a segment too.
    """
    columns = layout.width(max(sum(example.inputs for example in row) for row in rows))
    ids, targets, positions, segments = (np.zeros((len(rows), columns), np.int64) for _ in range(4))
    weights = np.zeros((len(rows), columns), np.float32)
    for r, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row, start=1):
            here = slice(start, start + example.inputs)
            ids[r, here], targets[r, here] = example.ids[:-1], example.ids[1:]
            weights[r, here] = example.trained[1:]
            positions[r, here], segments[r, here] = np.arange(example.inputs), number
            start += example.inputs
    packed, real = any(len(row) > 1 for row in rows), segments > 0
    return TokenBatch(
        ids=torch.from_numpy(ids),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        mask=None if packed or real.all() else torch.from_numpy(real),
        positions=torch.from_numpy(positions) if packed else None,
        segments=torch.from_numpy(segments) if packed else None,
        samples=torch.from_numpy(samples),
    )


def digest(examples: Sequence[Example]) -> str:
    """SHA-256 of the tokens and of what is trained."""
    content = hashlib.sha256()
    for example in examples:
        content.update(len(example.ids).to_bytes(8, "little") + example.ids.tobytes() + example.trained.tobytes())
    return content.hexdigest()


def answer_bytes(examples: Sequence[Example], tokenizer: Tokenizer) -> int:
    """Bytes of text in the tokens that are predicted, at least 1."""
    tokens = (id for example in examples for id in example.ids[1:][example.trained[1:]])
    return max(1, sum(len(tokenizer.token_bytes(int(id))) for id in tokens))


def chat_supply(spec: str, setup: ChatSetup, layout: Layout, split: str | None = None, packing: bool = False) -> Supply:
    """The conversations of a file as training batches and held-out ones; what was cut off is reported.

    Args:
        spec: the file, folder or glob.
        setup: tokenizer and template.
        layout: of the batches.
        split: what is held out; `SPLIT` unless given.
        packing: see `ChatBatches`.
    """
    context = layout.context
    chats = open_chats(spec)
    split = split or SPLIT
    sides = chats.split(split)
    training, held_out = (fit_examples(side, setup.template, setup.tokenizer, context) for side in sides)
    _tell(spec, training, held_out, setup)
    batches = ChatBatches(training.examples, layout, packing=packing)
    if packing:
        say(f"packed: {len(training.examples):,} conversations in {batches.windows:,} rows of {context} tokens")
    record = {
        **chats.record(),
        "spec": spec,
        "split": split,
        "template": setup.name,
        "added_tokens": list(setup.added),
        "training": training.record(),
        "held_out": held_out.record(),
    }
    return Supply(
        setup.tokenizer,
        batches,
        lambda limit: evaluation_rows(held_out.examples, context, layout.batch_size, limit),
        held_out.tokens,
        answer_bytes(held_out.examples, setup.tokenizer),
        record,
        _question(sides[1][0], setup)[: context - 8],
    )


def _question(chat: Chat, setup: ChatSetup) -> tuple[int, ...]:
    """The ids of a conversation up to its first answer."""
    asked = chat.messages[: chat.answers[0]]
    return tuple(prompt_ids(setup.template, setup.tokenizer, asked, chat.tools))


def _tell(spec: str, training: Fitted, held_out: Fitted, setup: ChatSetup) -> None:
    added = f" (new tokens: {', '.join(setup.added)})" if setup.added else ""
    say(
        f"{spec}: template {setup.name}{added}; {len(training.examples):,} conversations with "
        f"{format_amount(training.tokens, 'assistant tokens')} to train on, {len(held_out.examples):,} with "
        f"{format_amount(held_out.tokens, 'assistant tokens')} held out"
    )
    for side, fitted in (("to train on", training), ("held out", held_out)):
        if fitted.shortened:
            left_out = (
                f"; {len(fitted.unanswered):,} of them have no answer inside it and are left out, first "
                f"{fitted.unanswered[0]}"
                if fitted.unanswered
                else ""
            )
            warn(
                f"{fitted.shortened:,} conversations {side} are longer than the context and lost their ends, "
                f"{fitted.lost:,} tokens in all{left_out}"
            )
