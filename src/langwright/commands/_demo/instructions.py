"""Instructions mined from Python source: a signature and its docstring are asked, the author's body is the answer."""

import ast
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from langwright.adaptation.folder import adapted
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.baselines.parsing import FunctionHead, function_heads
from langwright.commands._demo.writing import BODY_TOKENS, bodies, write
from langwright.corpora.conversations import Chat
from langwright.corpora.document import Document
from langwright.models.folder import OpenedFolder
from langwright.text.chat_template import own_template, prompt_ids
from langwright.text.tokenizer import load_tokenizer

LONGEST, LEARNT, HELD_OUT = 700, 1500, 100
"""Characters of an instruction and its answer; how many are learnt from, and how many measured."""


def instruction(head: str) -> dict[str, str]:
    """What a user says to get a function's body."""
    return {"role": "user", "content": "Write the body of this function.\n\n" + head.removesuffix("\n")}


def mine(documents: Iterable[Document]) -> list[Chat]:
    """A conversation for each documented function of the modules, in order."""
    return [
        Chat(
            (instruction(function.head), {"role": "assistant", "content": function.body.removesuffix("\n")}),
            document.source,
        )
        for document in documents
        for function in function_heads(document.text)
        if is_documented(function)
    ]


def is_documented(function: FunctionHead) -> bool:
    """Whether the head ends with a docstring."""
    (node,) = ast.parse(function.head + function.indent + "pass\n").body
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, False) is not None


def write_instructions(path: Path, training: Iterable[Document], held_out: Iterable[Document]) -> str:
    """Write a seeded choice of short instructions, those held out last; returns the split that parts them."""
    rng, sides = random.Random(0), []
    for documents, count in ((training, LEARNT), (held_out, HELD_OUT)):
        short = [chat for chat in mine(documents) if len(chat.prompt + chat.answer) <= LONGEST]
        if not short:
            raise UserError(f"{path}: the source has no short documented function to make an instruction of; use more")
        sides.append(rng.sample(short, min(count, len(short))))
    chats = sides[0] + sides[1]
    write_atomic(path, "".join(json.dumps(chat.record()) + "\n" for chat in chats))
    return repr((len(sides[0]) + 0.5) / len(chats))


def compare_answers(base: Path, adapter: Path, heads: Sequence[FunctionHead]) -> dict[str, int]:
    """Ask a base model, and the same with an adapter, for the bodies of the documented functions that fit.

    Returns:
        How many were asked for, and how many answers parse before and after.
    """
    tokenizer = load_tokenizer(adapter)
    template = own_template(tokenizer, str(adapter))
    assert template is not None
    model = OpenedFolder(base).model(dtype=torch.float32)
    documented = [function for function in heads if is_documented(function)]
    questions = [prompt_ids(template, tokenizer, [instruction(function.head)]) for function in documented]
    fitting = [i for i, question in enumerate(questions) if len(question) + BODY_TOKENS <= model.context]

    def parsing() -> int:
        answers = write(model, tokenizer, [questions[i] for i in fitting])
        return sum(body.parses for body in bodies([documented[i] for i in fitting], answers))

    before = parsing()
    adapted(model, adapter, base)
    return {"asked": len(fitting), "before": before, "after": parsing()}
