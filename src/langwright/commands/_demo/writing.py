"""What models write after prompts cut from held-out Python source, beside simpler writers."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from langwright.baselines import parsing
from langwright.baselines.ngram import NGram
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

TEMPERATURE = 0.5
BODY_TOKENS, BODY_BYTES = 112, 400
"""What a model, and the n-gram, may spend on a function body."""
BATCH = 32
"""Texts that are written side by side."""


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
