"""Instructions mined from Python source: a signature and its docstring are asked, the author's body is the answer."""

import ast
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from langwright.adaptation.folder import adapted
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.baselines.parsing import FunctionHead, function_heads
from langwright.commands._demo.writing import BODY_TOKENS, Body, body_of
from langwright.corpora.conversations import Chat
from langwright.corpora.document import Document
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling
from langwright.models.folder import load_language_model
from langwright.models.model import Model
from langwright.text.chat_template import ChatTemplate, own_template, prompt_ids
from langwright.text.tokenizer import Tokenizer, load_tokenizer

ASKED = "Write the body of this function.\n\n"
LONGEST, LEARNT, HELD_OUT = 700, 1500, 100
"""Characters of an instruction and its answer; how many are learnt from, and how many measured."""


@dataclass(frozen=True)
class Asked:
    """How many answers to held-out instructions parse, of the base model and of the tuned one; and the latter."""

    before: int
    after: int
    bodies: list[Body]


def instruction(head: str) -> str:
    """What a user says to get a function's body."""
    return ASKED + head.removesuffix("\n")


def mine(documents: Iterable[Document]) -> list[Chat]:
    """A conversation for each documented function of the modules, in order."""
    return [
        Chat(
            (
                {"role": "user", "content": instruction(function.head)},
                {"role": "assistant", "content": function.body.removesuffix("\n")},
            ),
            document.source,
        )
        for document in documents
        for function in function_heads(document.text)
        if is_documented(function)
    ]


def is_documented(function: FunctionHead) -> bool:
    """Whether the head ends with a docstring."""
    (node,) = ast.parse(function.head + function.indent + "pass\n").body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return ast.get_docstring(node, clean=False) is not None


def answered_bodies(
    model: Model,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    heads: Sequence[FunctionHead],
    temperature: float = 0.5,
    batch: int = 32,
) -> list[Body]:
    """The bodies with which a model answers the instructions, `batch` side by side.

    An answer that is cut off at `BODY_TOKENS` loses its last line, as it does when a text is continued.
    """
    bodies = []
    for start in range(0, len(heads), batch):
        part = heads[start : start + batch]
        rows = [_question(template, tokenizer, function) for function in part]
        samplings = [Sampling(temperature, seed=start + i) for i in range(len(part))]
        written = complete(model, tokenizer, rows, samplings, BODY_TOKENS)
        for function, answer in zip(part, written, strict=True):
            bodies.append(body_of(function, answer.text + "\n" * (answer.reason == "end")))
    return bodies


def write_instructions(path: Path, training: Iterable[Document], held_out: Iterable[Document]) -> str:
    """Write a seeded choice of short instructions, those held out last; returns the split that parts them."""
    rng = random.Random(0)
    sides = []
    for documents, count in ((training, LEARNT), (held_out, HELD_OUT)):
        short = [chat for chat in mine(documents) if len(chat.prompt + chat.answer) <= LONGEST]
        if not short:
            raise UserError(
                f"{path}: no documented function is short enough to make an instruction of; use more source"
            )
        sides.append(rng.sample(short, min(count, len(short))))
    chats = sides[0] + sides[1]
    write_atomic(path, "".join(json.dumps(chat.record()) + "\n" for chat in chats))
    return repr((len(sides[0]) + 0.5) / len(chats))


def compare_answers(base: Path, adapter: Path, heads: Sequence[FunctionHead]) -> Asked:
    """Ask a base model, and the same with an adapter, for the bodies of the documented functions that fit."""
    tokenizer = load_tokenizer(adapter)
    template = own_template(tokenizer, str(adapter))
    assert template is not None
    model = load_language_model(base, dtype=torch.float32)
    asked = [
        function
        for function in heads
        if is_documented(function) and len(_question(template, tokenizer, function)) + BODY_TOKENS <= model.context
    ]
    before = answered_bodies(model, tokenizer, template, asked)
    after = answered_bodies(adapted(model, adapter, base), tokenizer, template, asked)
    return Asked(sum(body.parses for body in before), sum(body.parses for body in after), after)


def _question(template: ChatTemplate, tokenizer: Tokenizer, function: FunctionHead) -> list[int]:
    return prompt_ids(template, tokenizer, [{"role": "user", "content": instruction(function.head)}])
