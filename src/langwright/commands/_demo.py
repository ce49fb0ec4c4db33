"""What the demo alone needs: writing after prompts from held-out Python source, and instructions mined from source.

An instruction is a signature with its docstring; the author's body is the answer.
"""

import ast
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from langwright.adaptation.folder import adapted
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.baselines import parsing
from langwright.baselines.ngram import NGram
from langwright.corpora.conversations import Chat
from langwright.corpora.document import Document
from langwright.inference.generate import complete, tell_errors
from langwright.inference.sampling import Sampling
from langwright.models.folder import OpenedFolder
from langwright.models.model import Model
from langwright.text.chat_template import own_template
from langwright.text.opening import load_tokenizer
from langwright.text.tokenizer import Tokenizer

TEMPERATURE = 0.5
BODY_TOKENS, BODY_BYTES = 112, 400
"""What a model, and the n-gram, may spend on a function body."""
BATCH = 32
"""Texts that are written side by side."""
LONGEST, LEARNT, HELD_OUT = 700, 1500, 100
"""Characters of an instruction and its answer; how many are learnt from, and how many measured."""


class Body(NamedTuple):
    """A function body by one writer, and whether it and its head together are Python."""

    text: str
    parses: bool


def choose_prompts(
    sources: Iterable[str], tokenizer: Tokenizer, context: int, heads: int, docstrings: int
) -> tuple[list[parsing.FunctionHead], list[parsing.DocstringBeginning]]:
    """A seeded choice of function heads and docstring halves that leave the context room for a body.

    A head's true body fits it too.
    """
    rng = random.Random(0)
    room = context - BODY_TOKENS - 1
    functions: list[parsing.FunctionHead] = []
    halves: list[parsing.DocstringBeginning] = []
    for source in sources:
        functions += [f for f in parsing.function_heads(source) if 8 <= len(tokenizer.encode(f.head)) <= room]
        halves += [d for d in parsing.docstring_beginnings(source) if len(tokenizer.encode(d.prompt)) <= room]
    functions = [f for f in functions if len(tokenizer.encode(f.body)) <= BODY_TOKENS]
    return rng.sample(functions, min(heads, len(functions))), rng.sample(halves, min(docstrings, len(halves)))


def write(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str | Sequence[int]], stop: tuple[str, ...] = ()
) -> list[str]:
    """What a model writes after each prompt; a text that it ended itself ends with a newline."""
    texts: list[str] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        samplings = [Sampling(TEMPERATURE, seed=start + i) for i in range(len(part))]
        written = complete(model, tokenizer, part, samplings, BODY_TOKENS, stop)
        tell_errors(written)
        texts += [one.text + "\n" * (one.reason == "end") for one in written]
    return texts


def bodies(heads: Sequence[parsing.FunctionHead], continuations: Iterable[str]) -> list[Body]:
    """The bodies in continuations of heads; a last line that is not ended does not count."""
    texts = [parsing.cut_to_body(text) for text in continuations]
    return [Body(text, parsing.parses(function.head, text)) for function, text in zip(heads, texts, strict=True)]


def model_bodies(model: Model, tokenizer: Tokenizer, heads: Sequence[parsing.FunctionHead]) -> list[Body]:
    """The bodies a model writes."""
    # A tokenizer joins a line's end to the blanks after it: a prompt that ends with the line's end would ask the
    # model to go on from a token that no indented line ever follows.
    written = [text.partition("\n") for text in write(model, tokenizer, [f.head.removesuffix("\n") for f in heads])]
    return bodies(heads, ["" if same_line.strip() else lines for same_line, _, lines in written])


def ngram_bodies(ngram: NGram, heads: Sequence[parsing.FunctionHead]) -> list[Body]:
    """The bodies a byte n-gram writes."""
    rng = np.random.default_rng(0)
    written = (ngram.generate(function.head.encode(), BODY_BYTES, rng, TEMPERATURE) for function in heads)
    return bodies(heads, [text.decode(errors="replace") for text in written])


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
        for function in parsing.function_heads(document.text)
        if is_documented(function)
    ]


def is_documented(function: parsing.FunctionHead) -> bool:
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


def compare_answers(base: Path, adapter: Path, heads: Sequence[parsing.FunctionHead]) -> dict[str, int]:
    """Ask a base model, and the same with an adapter, for the bodies of the documented functions that fit.

    Returns:
        How many were asked for, and how many answers parse before and after.
    """
    tokenizer = load_tokenizer(adapter)
    template = own_template(tokenizer, str(adapter))
    assert template is not None
    model = OpenedFolder(base).model(dtype=torch.float32)
    documented = [function for function in heads if is_documented(function)]
    questions = [template.prompt_ids([instruction(function.head)]) for function in documented]
    fitting = [i for i, question in enumerate(questions) if len(question) + BODY_TOKENS <= model.context]

    def parsing() -> int:
        answers = write(model, tokenizer, [questions[i] for i in fitting])
        return sum(body.parses for body in bodies([documented[i] for i in fitting], answers))

    before = parsing()
    adapted(model, adapter, base)
    return {"asked": len(fitting), "before": before, "after": parsing()}
