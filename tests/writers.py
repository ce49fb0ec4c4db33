"""Texts of an engine as ids."""

from collections.abc import Sequence
from typing import Any

from langwright.inference.engine import Engine
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.models.model import Model

GREEDY = Sampling(temperature=0)


def written(
    model: Model,
    prompts: Sequence[Sequence[int]],
    new: int | Sequence[int],
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    engine: Engine | None = None,
    cache: bool = True,
    streaming: Any = None,
    **asked: Any,
) -> list[list[int]]:
    """What a model writes after each prompt, all of them side by side. asked: what else a `Request` says."""
    engine = engine or Engine(model, batch=64, longest=160, cache=cache, streaming=streaming)
    news = [new] * len(prompts) if isinstance(new, int) else new
    samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else sampling
    handles = [
        engine.add(Request(list(prompt), one, limit, **asked))
        for prompt, one, limit in zip(prompts, samplings, news, strict=True)
    ]
    return [completions[0].ids for completions in engine.finish(handles)]
