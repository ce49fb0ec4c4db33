"""Prompts continued side by side, and the likeliest next tokens of a text."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from langwright.base.console import warn
from langwright.base.errors import UserError, check_flag
from langwright.inference.constraints import Constraint
from langwright.inference.engine import Engine
from langwright.inference.prompts import check_length, given_ids, length_limit, prompt_ids
from langwright.inference.request import Completion, Request
from langwright.inference.sampling import Sampling, Search
from langwright.inference.sinks import Streaming
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

BATCH = 32
"""Texts that are written side by side."""
WIDTH = 64
"""Beginnings of continuations that are followed side by side."""


def complete(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    *,
    batch: int = BATCH,
    cache: bool = True,
    on_text: Callable[[int, str], None] = lambda row, text: None,
    streaming: Streaming | None = None,
    search: Search = Search(),
    constraint: Constraint | None = None,
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
        cache: whether keys and values are kept between steps.
        on_text: called with row and text as soon as text is final, which with several beams is at the end.
        streaming: forget the middle of a text that grows too long, so that it may go on past the model's context.
        search: beams, and rules for what may come.
        constraint: the form that each text has.

    Raises:
        UserError: settings that exclude each other, or a prompt that does not fit.
    """
    check_flag("batch", batch, batch >= 1, "at least 1")
    if not prompts:
        return []
    samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    rows = [given_ids(model, tokenizer, prompt) for prompt in prompts]
    asked = Request((), max_new_tokens=max_new_tokens, stop=tuple(stop), search=search, constraint=constraint)
    engine = engine_for(model, tokenizer, asked, rows, batch=batch, cache=cache, streaming=streaming)
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
    cache: bool = True,
    streaming: Streaming | None = None,
) -> Engine:
    """An engine with the memory that these prompts want, continued in this way, at most `batch` of them at once."""
    longest = max(map(len, rows), default=0) + (asked.max_new_tokens or 256)
    return Engine(
        model,
        tokenizer,
        batch=max(1, min(len(rows), batch)) * asked.search.beams,
        longest=longest if model.context is None else min(longest, model.context),
        cache=cache,
        streaming=streaming,
    )


def tell_errors(completions: Iterable[Completion]) -> None:
    """Say what went wrong, each once."""
    for error in dict.fromkeys(completion.error for completion in completions if completion.error):
        warn(f"a text was cut off: {error}")


def next_tokens(
    model: Model, tokenizer: Tokenizer, text: str, top: int, temperature: float = 1.0
) -> list[tuple[int, float]]:
    """The `top` likeliest next tokens of a text with their probabilities, likeliest first."""
    ids = torch.tensor([check_length(model, prompt_ids(tokenizer, text))], device=model.device)
    at = torch.arange(ids.shape[1], device=model.device) == ids.shape[1] - 1
    return _likeliest(model, tokenizer, ids, at[None], top, temperature)


@torch.inference_mode()
def likeliest_continuations(
    model: Model, tokenizer: Tokenizer, text: str, top: int, length: int, temperature: float = 1.0
) -> tuple[list[tuple[list[int], float]], float]:
    """The likeliest continuations of a text by `length` tokens, or fewer where the text ends with them.

    The WIDTH likeliest beginnings of each length go on, so that the search is exact wherever it gave up none that is
    likelier than what it found.

    Returns:
        Ids and probability of each, likeliest first; and the probability of the likeliest beginning that was given up.
    """
    prompt = prompt_ids(tokenizer, text)
    length_limit(model.context, len(prompt), length)
    found: list[tuple[list[int], float]] = []
    live, sums, given_up = [list[int]()], torch.zeros(1), 0.0
    for _ in range(length):
        ids = torch.tensor([[*prompt, *one] for one in live], device=model.device)
        logits = model.head(model.body(ids)[:, -1]).double().cpu()[:, : tokenizer.vocab_size]
        scores = (sums[:, None] + (logits / temperature).log_softmax(-1)).flatten()
        best = scores.topk(min(max(top, WIDTH) + 1, len(scores)))
        rows = list(zip(best.values.tolist(), best.indices.tolist(), strict=True))
        if len(rows) > max(top, WIDTH):
            given_up = max(given_up, math.exp(rows.pop()[0]))
        grown = [([*live[i // logits.shape[1]], i % logits.shape[1]], score) for score, i in rows]
        found += [(one, math.exp(score)) for one, score in grown if one[-1] in tokenizer.ends]
        going = [(one, score) for one, score in grown if one[-1] not in tokenizer.ends]
        live, sums = [one for one, _ in going], torch.tensor([score for _, score in going], dtype=torch.float64)
        if not live:
            break
    found += [(one, math.exp(score)) for one, score in zip(live, sums.tolist(), strict=True)]
    return sorted(found, key=lambda one: -one[1])[:top], given_up


def likeliest_fillings(
    model: Model, tokenizer: Tokenizer, text: str, top: int, temperature: float = 1.0
) -> list[tuple[int, float]]:
    """The `top` likeliest tokens for the mask in a text with their probabilities, likeliest first.

    Raises UserError for a model without a head for it, and for a text that does not name the mask once.
    """
    if not model.fills:
        raise UserError(f'a {model.family} model with the head "{model.task}" neither writes text nor fills a mask')
    mask = tokenizer.special_tokens.mask
    if mask is None:
        raise UserError("the tokenizer of this model has no mask token")
    if (count := text.count(mask)) != 1:
        raise UserError(f"the text must hold {mask} once, where a token is to be guessed; it holds it {count} times")
    ids = torch.tensor([check_length(model, tokenizer.frame(text, named=True)[0])], device=model.device)
    return _likeliest(model, tokenizer, ids, ids == tokenizer.mask_id, top, temperature)


def _likeliest(
    model: Model, tokenizer: Tokenizer, ids: Tensor, at: Tensor, top: int, temperature: float
) -> list[tuple[int, float]]:
    """The likeliest tokens by the logits of one place, and their probabilities."""
    with torch.inference_mode():
        logits = model.head(model.body(ids)[at])[0].float()[: tokenizer.vocab_size]
    best = ((logits - logits.max()) / temperature).softmax(-1).topk(min(top, len(logits)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
