"""Instructions mined from Python source: a signature and its docstring are asked, the author's body is the answer."""

import ast
from collections.abc import Iterable, Sequence

from langwright.baselines.parsing import FunctionHead, function_heads
from langwright.commands.writing import BODY_TOKENS, Body, body_of
from langwright.corpora.chats import Chat
from langwright.corpora.document import Document
from langwright.inference.generate import write
from langwright.inference.sampling import Sampling
from langwright.models.decoder import CausalLM
from langwright.text.chat import ChatTemplate, prompt_ids
from langwright.text.tokenizer import Tokenizer

ASKED = "Write the body of this function.\n\n"


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
    model: CausalLM,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    ends: Sequence[int],
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
        rows = [
            prompt_ids(template, tokenizer, [{"role": "user", "content": instruction(function.head)}])
            for function in part
        ]
        samplings = [Sampling(temperature, seed=start + i) for i in range(len(part))]
        written = write(model, tokenizer, rows, samplings, BODY_TOKENS, ends=tuple(ends))
        for function, answer in zip(part, written, strict=True):
            bodies.append(body_of(function, answer.text + "\n" * (answer.reason == "end")))
    return bodies
