"""Conversations as training batches: the assistant's tokens weigh 1, everything else 0."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from langwright.base.console import format_amount, progress, say, warn
from langwright.base.errors import UserError
from langwright.corpora.conversations import Chat, open_chats
from langwright.data.examples import Example, ExampleRows
from langwright.data.order import Layout
from langwright.data.supply import Batches, Supply, evaluation_batches
from langwright.text.chat_template import ChatTemplate
from langwright.text.tokenizer import Tokenizer


@final
@dataclass(frozen=True, eq=False)
class ChatExample:
    """One conversation as tokens. trained: true where a token is to be predicted. source: its file and row."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    source: str

    @property
    def inputs(self) -> int:
        """How many places it takes in a row: every token but the last has one that follows it."""
        return len(self.ids) - 1


def fit_examples(
    chats: Sequence[Chat], template: ChatTemplate, context: int
) -> tuple[list[ChatExample], dict[str, int]]:
    """The conversations as examples of at most `context` inputs, their ends cut off where they are longer.

    Returns:
        The examples that have an answer inside the context, and counts for the record of a run.

    Raises:
        UserError: Names file and row where the template refuses a conversation, or finds nothing to learn in it, or
            every answer is empty; or not one example has an answer inside the context.
    """
    whole: list[ChatExample] = []
    with progress("tokenising", len(chats), "conversations") as advance:
        for chat in chats:
            if chat.is_silent:
                raise UserError(f"{chat.source}: every answer of the assistant is empty; leave the row out")
            whole.append(example_of(chat, template))
            advance(1)
    cut = [ChatExample(each.ids[: context + 1], each.trained[: context + 1], each.source) for each in whole]
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


def example_of(chat: Chat, template: ChatTemplate) -> ChatExample:
    """One conversation as tokens, at its full length; errors as in `fit_examples`."""
    try:
        encoded = template.encode(chat.messages, chat.tools, chat.answers)
    except UserError as error:
        raise UserError(f"{chat.source}: {error}") from None
    if not any(encoded.trained[1:]):
        raise UserError(f"{chat.source}: the chat template leaves nothing to learn from, no token is the assistant's")
    return ChatExample(np.array(encoded.ids, np.int32), np.array(encoded.trained, np.bool_), chat.source)


def chat_rows(examples: Sequence[ChatExample], context: int, packing: bool = False) -> ExampleRows:
    """Conversations as rows; see `ExampleRows`. They are identified by SHA-256 of the tokens and of what is trained."""
    content = hashlib.sha256()
    for each in examples:
        content.update(len(each.ids).to_bytes(8, "little") + each.ids.tobytes() + each.trained.tobytes())
    sizes = np.array([each.inputs for each in examples], dtype=np.int64)
    ids = [each.ids.astype(np.int64) for each in examples]
    ready = [Example(i[:-1], i[1:], each.trained[1:]) for i, each in zip(ids, examples, strict=True)]
    return ExampleRows(lambda i, epoch: ready[i], sizes, context, {"examples": content.hexdigest()}, packing)


def answer_bytes(examples: Sequence[ChatExample], tokenizer: Tokenizer) -> int:
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
        packing: see `ExampleRows`.
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
    rows = chat_rows(training, context, packing)
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
        Batches(rows, layout, by_length=not packing),
        lambda limit: evaluation_batches(chat_rows(held_out, context), layout.batch_size, limit),
        measured["assistant_tokens"],
        answer_bytes(held_out, template.tokenizer),
        record,
        tuple(question)[: context - 8],
    )
