"""What a training run of a language model is lent from above: how its held-out text is measured, and samples."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langwright.data.supply import Supply
from langwright.evaluation.likelihood import Likelihood, likelihood
from langwright.inference.generate import complete, tell_errors
from langwright.inference.sampling import Sampling
from langwright.objectives.batch import Models
from langwright.training.trainer import Evaluate, Evaluation, Sample

SAMPLED_TOKENS = 80


def held_out_likelihood(supply: Supply) -> Evaluate:
    """Measures the loss on the held-out text of a supply; bits per byte too where all of it is measured."""

    def evaluate(models: Models, windows: int | None, stopped: Callable[[], bool]) -> Evaluation:
        def measured(held_out: Iterator[Any]) -> Likelihood:
            batches = itertools.takewhile(lambda _: not stopped(), held_out)
            return likelihood(models["model"], batches, supply.held_out_bytes)

        parts = {name: measured(held_out()) for name, held_out in supply.parts.items()} if windows is None else {}
        found = _together(list(parts.values())) if parts else measured(supply.held_out(windows))
        if stopped():
            return Evaluation({}, {})
        metrics = {"validation_loss": found.loss, **{f"validation_loss_{name}": p.loss for name, p in parts.items()}}
        if windows is None and found.bytes is not None:
            metrics["validation_bits_per_byte"] = found.bits_per_byte
        losses = {name: part.loss for name, part in parts.items()}
        return Evaluation(metrics, found.record() | ({"corpora": losses} if losses else {}))

    return evaluate


def _together(parts: Sequence[Likelihood]) -> Likelihood:
    return Likelihood(sum(p.nats for p in parts), sum(p.tokens for p in parts), parts[0].bytes)


def sample_of(supply: Supply, context: int) -> Sample | None:
    """Lets a model go on from the prompt of a supply, where it has one."""
    prompt = supply.prompt
    if prompt is None:
        return None

    def sample(models: Models) -> str:
        limit = min(SAMPLED_TOKENS, context - (1 if isinstance(prompt, str) else len(prompt)))
        written = complete(models["model"], supply.tokenizer, [prompt], Sampling(0.8, top_k=50), limit)
        tell_errors(written)
        return written[0].text

    return sample
