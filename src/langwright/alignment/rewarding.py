"""The run that makes a reward model of comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from langwright.alignment.reward_model import LABEL, report_of, scores_of, warn_of_length
from langwright.alignment.setup import Setup, held_out_terms
from langwright.data.preferences import AnswerExample, RankedExample, ranked_examples, ranked_rows, tell_rows
from langwright.models.model import Model
from langwright.objectives.batch import Models
from langwright.objectives.preferences import RewardModelling
from langwright.training.trainer import Job

Row = dict[str, Any]
REFERENCES = 512
"""Answers of the data, good and bad, whose rewards have mean 0 and standard deviation 1."""
WEIGHT, BIAS = "head.output.weight", "head.output.bias"


def reward_job(setup: Setup) -> Job:
    """A run that gives a model a head of one output, whose scores put answers in their order."""
    setup.open("sequence", (LABEL,))
    training, held_out, record = setup.rows()
    fitting = setup.choose_format(training.items)
    seen, measured = (ranked_examples(side.compared().items, fitting, side.spec) for side in (training, held_out))
    fitting.tell(training.spec)
    rows, others = ranked_rows(seen, setup.context), ranked_rows(measured, setup.context)
    tell_rows(training.spec, len(seen), len(measured), rows.inputs)
    objective = RewardModelling(setup.recipe.centring)
    supply = setup.supply(rows, others, record)
    normal = references(seen)

    def models() -> Models:
        base = setup.base()
        initialise(base, setup.recipe.seed)
        return {"model": setup.trained(base)}

    def finish(models: Models) -> Row:
        model = models["model"]
        report = trust(model, measured)
        warn_of_length(report)
        scores = scores_of(model, normal)
        # A score of bfloat16 may be the same for all; dividing by 0 would give no number at all.
        mean, deviation = float(scores.mean()), float(scores.std()) or 1.0
        shift, scale = _unfolded(model, mean, deviation)
        task = {"name": LABEL, "head": "sequence", "labels": [LABEL], "format": setup.form.name}
        return {
            "task": {**task, "shift": shift, "scale": scale},
            "references": {"answers": len(normal), "mean": mean, "deviation": deviation},
            "reward_model": report,
        }

    def save(models: Models, masters: Mapping[str, Tensor], record: Row) -> None:
        found = record["references"]
        setup.save(models, folded(masters, found["mean"], found["deviation"]), record)

    return setup.job(
        supply=supply,
        models=models,
        objective=lambda ranks: objective,
        evaluate=held_out_terms(objective, supply, len(measured)),
        on_finish=finish,
        save=save,
    )


def references(examples: Sequence[RankedExample]) -> list[AnswerExample]:
    """The answers that make scores comparable: of rows spread over the data, so many as to have about `REFERENCES`."""
    each = sum(len(example.answers) for example in examples) / len(examples)
    count = min(len(examples), max(1, int(REFERENCES / each)))
    return [answer for i in range(count) for answer in examples[i * len(examples) // count].answers]


def initialise(model: Model, seed: int) -> None:
    """Give a new head normal numbers of standard deviation 1/sqrt(width + 1), and bias 0 (Stiennon et al., 2020)."""
    if not model.new:
        return
    output: Any = model.head.output
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.randn(output.weight.shape, generator=generator) / (output.weight.shape[1] + 1) ** 0.5
        output.weight.copy_(numbers)
        if output.bias is not None:
            nn.init.zeros_(output.bias)


def trust(model: Model, examples: list[RankedExample]) -> Row:
    """How far a model's scores of held-out answers can be trusted; see `report_of`."""
    scores = scores_of(model, [answer for example in examples for answer in example.answers])
    ends = torch.tensor([len(example.answers) for example in examples]).cumsum(0).tolist()
    return report_of(examples, [scores[end - len(e.answers) : end] for end, e in zip(ends, examples, strict=True)])


def folded(masters: Mapping[str, Tensor], mean: float, deviation: float) -> dict[str, Tensor]:
    """The numbers of a head whose scores have mean 0 and deviation 1, as far as it has them: without a bias, which
    decoders lack in `transformers`, the mean stays mean / deviation.
    """
    found = dict(masters)
    if WEIGHT in found:
        found[WEIGHT] = found[WEIGHT] / deviation
        if BIAS in found:
            found[BIAS] = (found[BIAS] - mean) / deviation
    return found


def _unfolded(model: Model, mean: float, deviation: float) -> tuple[float, float]:
    """Shift and scale that scores need when `folded` has done what it can."""
    output: Any = model.head.output
    if not output.weight.requires_grad:
        return mean, deviation
    return (0.0 if output.bias is not None else mean / deviation), 1.0
