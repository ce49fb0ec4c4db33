"""What models write after prompts cut from held-out Python source, beside simpler writers."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from langwright.baselines.ngram import NGram
from langwright.baselines.parsing import (
    DocstringBeginning,
    FunctionHead,
    cut_to_body,
    docstring_beginnings,
    function_heads,
    parses,
)
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

BODY_TOKENS = 112
"""Tokens a model may spend on a function body."""

BODY_BYTES = 400
"""Bytes the n-gram may spend on one."""


@dataclass(frozen=True)
class Prompts:
    """Prompts from held-out modules: heads of functions, and first halves of English docstrings."""

    heads: Sequence[FunctionHead]
    docstrings: Sequence[DocstringBeginning]


@dataclass(frozen=True)
class Body:
    """A function body by one writer, and whether head and body together are Python."""

    head: str
    body: str
    parses: bool


def choose_prompts(
    sources: Iterable[str], tokenizer: Tokenizer, context: int, heads: int, docstrings: int, seed: int = 0
) -> Prompts:
    """A seeded choice of prompts whose head leaves the context room for a body, and whose true body fits it too."""
    rng = random.Random(seed)
    room = context - BODY_TOKENS - 1
    functions: list[FunctionHead] = []
    halves: list[DocstringBeginning] = []
    for source in sources:
        functions += [f for f in function_heads(source) if 8 <= len(tokenizer.encode(f.head)) <= room]
        halves += [d for d in docstring_beginnings(source) if len(tokenizer.encode(d.prompt)) <= room]
    functions = [f for f in functions if len(tokenizer.encode(f.body)) <= BODY_TOKENS]
    return Prompts(rng.sample(functions, min(heads, len(functions))), rng.sample(halves, min(docstrings, len(halves))))


def model_bodies(
    model: Model, tokenizer: Tokenizer, heads: Sequence[FunctionHead], temperature: float = 0.5, batch: int = 32
) -> list[Body]:
    """The bodies a model writes, `batch` side by side."""
    bodies = []
    for start in range(0, len(heads), batch):
        part = heads[start : start + batch]
        samplings = [Sampling(temperature, seed=start + i) for i in range(len(part))]
        # A tokenizer joins a line's end to the blanks after it: a prompt that ends with the line's end would ask the
        # model to go on from a token that no indented line ever follows.
        prompts = [f.head.removesuffix("\n") for f in part]
        written = complete(model, tokenizer, prompts, samplings, BODY_TOKENS)
        for function, completion in zip(part, written, strict=True):
            same_line, _, lines = completion.text.partition("\n")
            ended = lines + "\n" * (completion.reason == "end")
            bodies.append(body_of(function, "" if same_line.strip() else ended))
    return bodies


def ngram_bodies(ngram: NGram, heads: Sequence[FunctionHead], temperature: float = 0.5) -> list[Body]:
    """The bodies a byte n-gram writes."""
    rng = np.random.default_rng(0)

    def write(function: FunctionHead) -> str:
        return ngram.generate(function.head.encode(), BODY_BYTES, rng, temperature).decode(errors="replace")

    return [body_of(function, write(function)) for function in heads]


def given_bodies(heads: Sequence[FunctionHead], body: Callable[[FunctionHead], str]) -> list[Body]:
    """Bodies that are known: the author's own, or `pass`."""
    return [body_of(function, body(function)) for function in heads]


def finish_docstrings(
    model: Model, tokenizer: Tokenizer, beginnings: Sequence[DocstringBeginning], temperature: float = 0.5
) -> list[str]:
    """How a model ends docstrings, up to their closing quotes."""
    if not beginnings:
        return []
    samplings = [Sampling(temperature, seed=i) for i in range(len(beginnings))]
    prompts = [d.prompt for d in beginnings]
    return [c.text for c in complete(model, tokenizer, prompts, samplings, BODY_TOKENS, stop=('"""',))]


def body_of(function: FunctionHead, continuation: str) -> Body:
    """The body in a continuation of a head, and whether both together are Python."""
    body = cut_to_body(continuation)
    return Body(function.head, body, parses(function.head, body))
