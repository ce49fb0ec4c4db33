"""Conversations as training batches: the assistant's tokens weigh 1, everything else 0."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.base.console import format_amount, progress, say, warn
from langwright.base.errors import UserError
from langwright.corpora.conversations import Chat, open_chats
from langwright.data.order import Layout
from langwright.data.packing import pack
from langwright.data.supply import Batches, Supply, evaluation_batches
from langwright.objectives.batch import TokenBatch
from langwright.text.chat_template import ChatTemplate
from langwright.text.tokenizer import Tokenizer


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


def fit_examples(chats: Sequence[Chat], template: ChatTemplate, context: int) -> tuple[list[Example], dict[str, int]]:
    """The conversations as examples of at most `context` inputs, their ends cut off where they are longer.

    Returns:
        The examples that have an answer inside the context, and counts for the record of a run.

    Raises:
        UserError: Names file and row where the template refuses a conversation, or finds nothing to learn in it, or
            every answer is empty; or not one example has an answer inside the context.
    """
    whole: list[Example] = []
    with progress("tokenising", len(chats), "conversations") as advance:
        for chat in chats:
            if chat.is_silent:
                raise UserError(f"{chat.source}: every answer of the assistant is empty; leave the row out")
            whole.append(example_of(chat, template))
            advance(1)
    cut = [Example(each.ids[: context + 1], each.trained[: context + 1], each.source) for each in whole]
    examples = [example for example in cut if example.trained[1:].any()]
    unanswered = [example.source for example in cut if not example.trained[1:].any()]
    if not examples:
        raise UserError(f"{unanswered[0]}: no conversation has an answer within {context} tokens; raise --context")
    over = [example.inputs - context for example in whole if example.inputs > context]
    if over:
        warn(f"{len(over):,} conversations lost their ends to the context, {sum(over):,} tokens in all")
    if unanswered:
        warn(f"{len(unanswered):,} of them have no answer inside it and are left out, first {unanswered[0]}")
    return examples, {
        "examples": len(examples),
        "tokens": sum(len(example.ids) for example in examples),
        "assistant_tokens": sum(int(example.trained[1:].sum()) for example in examples),
        "shortened": len(over),
        "tokens_cut_off": sum(over),
        "left_out": len(unanswered),
    }


def example_of(chat: Chat, template: ChatTemplate) -> Example:
    """One conversation as tokens, at its full length; errors as in `fit_examples`."""
    try:
        encoded = template.encode(chat.messages, chat.tools, chat.answers)
    except UserError as error:
        raise UserError(f"{chat.source}: {error}") from None
    if not any(encoded.trained[1:]):
        raise UserError(f"{chat.source}: the chat template leaves nothing to learn from, no token is the assistant's")
    return Example(np.array(encoded.ids, np.int32), np.array(encoded.trained, np.bool_), chat.source)


@final
class ChatRows:
    """Conversations as rows.

    Args:
        examples: one a row, unless packed.
        context: inputs a row at most.
        packing: several examples share a row, none of which sees another; which ones is settled here, once.
    """

    def __init__(self, examples: Sequence[Example], context: int, packing: bool = False) -> None:
        self.context, self._examples, self._packing = context, examples, packing
        lengths = [example.inputs for example in examples]
        self.inputs = sum(lengths)
        self._rows = pack(lengths, context) if packing else [[i] for i in range(len(examples))]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Real inputs of each of some rows."""
        return np.array([sum(self._examples[i].inputs for i in self._rows[n]) for n in numbers])

    def batch(self, numbers: NDArray[np.int64], width: int) -> TokenBatch:
        """Some rows as tensors."""
        rows = [[self._examples[i] for i in self._rows[n]] for n in numbers]
        return replace(batch_of(rows, width), samples=torch.from_numpy(numbers))

    def record(self) -> dict[str, Any]:
        """What identifies the rows: SHA-256 of the tokens and of what is trained."""
        content = hashlib.sha256()
        for example in self._examples:
            content.update(len(example.ids).to_bytes(8, "little") + example.ids.tobytes() + example.trained.tobytes())
        return {"examples": content.hexdigest(), "packing": self._packing}


def batch_of(rows: Sequence[Sequence[Example]], width: int) -> TokenBatch:
    """Rows of examples as tensors so wide, padding (id 0, weight 0) at the right.

    Where a row holds several, each is a segment of its own, with positions from 0; padding is a segment too.
    """
    ids, targets, positions, segments = (np.zeros((len(rows), width), np.int64) for _ in range(4))
    weights = np.zeros((len(rows), width), np.float32)
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
    )


def answer_bytes(examples: Sequence[Example], tokenizer: Tokenizer) -> int:
    """Bytes of text in the tokens that are predicted, at least 1."""
    tokens = (id for example in examples for id in example.ids[1:][example.trained[1:]])
    return max(1, sum(len(tokenizer.token_bytes(int(id))) for id in tokens))


def chat_supply(
    spec: str, template: ChatTemplate, layout: Layout, context: int, split: str, packing: bool = False
) -> Supply:
    """The conversations of a file as training batches and held-out ones; what was cut off is reported.

    Args:
        spec: the file, folder or glob.
        template: with its tokenizer.
        layout: of the batches.
        context: inputs a row at most.
        split: what is held out.
        packing: see `ChatRows`.
    """
    chats = open_chats(spec)
    sides = chats.split(split)
    (training, learnt), (held_out, measured) = (fit_examples(side, template, context) for side in sides)
    added = f" (new tokens: {', '.join(template.added)})" if template.added else ""
    say(
        f"{spec}: template {template.name}{added}; {len(training):,} conversations with "
        f"{format_amount(learnt['assistant_tokens'], 'assistant tokens')} to train on, {len(held_out):,} with "
        f"{format_amount(measured['assistant_tokens'], 'assistant tokens')} held out"
    )
    rows = ChatRows(training, context, packing)
    if packing:
        say(f"packed: {len(training):,} conversations in {len(rows):,} rows of {context} tokens")
    record = {
        **chats.record(),
        "spec": spec,
        "split": split,
        "template": template.name,
        "added_tokens": list(template.added),
        "training": learnt,
        "held_out": measured,
    }
    first = sides[1][0]
    question = template.prompt_ids(first.messages[: first.answers[0]], first.tools)
    return Supply(
        template.tokenizer,
        Batches(rows, layout),
        lambda limit: evaluation_batches(ChatRows(held_out, context), layout.batch_size, limit),
        measured["assistant_tokens"],
        answer_bytes(held_out, template.tokenizer),
        record,
        tuple(question)[: context - 8],
    )
