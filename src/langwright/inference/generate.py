"""Prompts continued side by side."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from langwright.base.console import warn
from langwright.base.errors import check_flag
from langwright.inference.constraints import Constraint
from langwright.inference.engine import Engine
from langwright.inference.prompts import given_ids
from langwright.inference.request import Completion, Request
from langwright.inference.sampling import Sampling, Search
from langwright.inference.sinks import Streaming
from langwright.inference.speculation import Speculation
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

BATCH = 32
"""Texts that are written side by side."""


def complete(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    *,
    batch: int = BATCH,
    on_text: Callable[[int, str], None] = lambda row, text: None,
    streaming: Streaming | None = None,
    search: Search = Search(),
    constraint: Constraint | None = None,
    speculation: Speculation | None = None,
) -> list[Completion]:
    """Continue each prompt until its document ends, a stop string comes, or the limit is reached.

    Args:
        model: a model that writes text; an encoder-decoder reads the prompts and writes texts of its own.
        tokenizer: the model's.
        prompts: texts, or ids, as a chat template makes them.
        sampling: one for all, or one a prompt. Each sequence draws from a generator of its own, so that a prompt gives
            the same tokens alone and in a batch.
        max_new_tokens: by default what the context has room for, at most 256.
        stop: strings that end a text; they and what follows are left out.
        batch: how many texts are written side by side.
        on_text: called with row and text as soon as text is final, which with several beams is at the end.
        streaming: forget the middle of a text that grows too long, so that it may go on past the model's context.
        search: beams, and rules for what may come.
        constraint: the form that each text has.
        speculation: guesses what comes next; the texts are the same.

    Raises:
        UserError: settings that exclude each other, or a prompt that does not fit.
    """
    check_flag("batch", batch, batch >= 1, "at least 1")
    if not prompts:
        return []
    samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    rows = [given_ids(model, tokenizer, prompt) for prompt in prompts]
    asked = Request((), max_new_tokens=max_new_tokens, stop=tuple(stop), search=search, constraint=constraint)
    engine = engine_for(model, tokenizer, asked, rows, batch=batch, streaming=streaming, speculation=speculation)
    requests = [replace(asked, prompt=ids, sampling=one) for ids, one in zip(rows, samplings, strict=True)]
    numbers = {engine.add(request): row for row, request in enumerate(requests)}
    while engine.busy:
        for handle in engine.step():
            if text := handle.read():
                on_text(numbers[handle], text)
    return [handle.completions[0] for handle in numbers]


def engine_for(
    model: Model,
    tokenizer: Tokenizer,
    asked: Request,
    rows: Collection[Sequence[int]],
    *,
    batch: int,
    streaming: Streaming | None = None,
    speculation: Speculation | None = None,
) -> Engine:
    """An engine with the memory that these prompts want, continued in this way, at most `batch` of them at once."""
    longest = max(map(len, rows), default=0) + (asked.max_new_tokens or 256)
    return Engine(
        model,
        tokenizer,
        batch=max(1, min(len(rows) * asked.texts, batch)) * asked.search.beams,
        longest=longest if model.context is None else min(longest, model.context),
        streaming=streaming,
        speculation=speculation,
    )


def tell_errors(completions: Iterable[Completion]) -> None:
    """Say what went wrong, each once."""
    for error in dict.fromkeys(completion.error for completion in completions if completion.error):
        warn(f"a text was cut off: {error}")
