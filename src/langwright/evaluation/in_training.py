"""What a training run of a language model is lent from above: how its held-out text is measured, and samples."""

import itertools
from collections.abc import Callable

from langwright.data.supply import Supply
from langwright.evaluation.likelihood import likelihood
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling
from langwright.objectives.batch import Models
from langwright.training.trainer import Evaluate, Evaluation, Sample

SAMPLED_TOKENS = 80


def held_out_likelihood(supply: Supply) -> Evaluate:
    """Measures the loss on the held-out text of a supply; bits per byte too where all of it is measured."""

    def evaluate(models: Models, windows: int | None, stopped: Callable[[], bool]) -> Evaluation:
        batches = itertools.takewhile(lambda _: not stopped(), supply.held_out(windows))
        found = likelihood(models["model"], batches, supply.held_out_bytes)
        if stopped():
            return Evaluation({}, {})
        metrics = {"validation_loss": found.loss}
        if windows is None and found.bytes is not None:
            metrics["validation_bits_per_byte"] = found.bits_per_byte
        return Evaluation(metrics, found.record())

    return evaluate


def sample_of(supply: Supply, context: int) -> Sample | None:
    """Lets a model go on from the prompt of a supply, where it has one."""
    prompt = supply.prompt
    if prompt is None:
        return None

    def sample(models: Models) -> str:
        limit = min(SAMPLED_TOKENS, context - (1 if isinstance(prompt, str) else len(prompt)))
        return complete(models["model"], supply.tokenizer, [prompt], Sampling(0.8, top_k=50), limit)[0].text

    return sample
