"""Two models compared by their answers to the same prompts: win rates with intervals, rewards, and how far apart."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.alignment.rewards import Reward, answered
from langwright.base.errors import UserError
from langwright.corpora.preferences import Prompt
from langwright.data.preferences import AnswerFormat, at_row
from langwright.inference.generate import BATCH, engine_for
from langwright.inference.prompts import padded
from langwright.inference.request import Completion, Request
from langwright.models.model import Model
from langwright.objectives.losses import log_probabilities

Row = dict[str, Any]
Numbers = NDArray[np.float64]
SAMPLES = 10_000
"""Of a bootstrap."""


def write_answers(model: Model, form: AnswerFormat, prompts: Sequence[Prompt], asked: Request) -> list[Completion]:
    """The answer of a model to each prompt.

    Args:
        model: who answers.
        form: how a prompt becomes tokens.
        prompts: see `open_prompts`.
        asked: how; prompt number i draws with the seed + i.

    Raises:
        UserError: A prompt does not fit, naming its row, or the model gives no answer.
    """
    rows = [at_row(item.source, partial(form.prompt_ids, item.prompt)) for item in prompts]
    engine = engine_for(model, form.tokenizer, asked, rows, batch=BATCH)
    handles = []
    for number, (item, ids) in enumerate(zip(prompts, rows, strict=True)):
        seed = asked.sampling.seed + number
        try:
            handles.append(engine.add(replace(asked, prompt=ids, sampling=replace(asked.sampling, seed=seed))))
        except UserError as error:
            raise UserError(f"{item.source}: {error}") from None
    answers = [texts[0] for texts in engine.finish(handles)]
    for item, answer in zip(prompts, answers, strict=True):
        if answer.error:
            raise UserError(f"{item.source}: the model writes no answer: {answer.error}")
    return answers


def compared(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Row:
    """What the rewards of two models' answers to the same prompts say.

    Args:
        ours: the rewards of the first model, one a prompt.
        theirs: those of the second.
        seed: of the bootstrap over prompts.

    Returns:
        `win_rate` of the first, a tie being half a win, and `difference` of the mean rewards, each with its 95 %
        `interval`; `ties` as a share, and both means and standard deviations.
    """
    first, second = np.array(ours), np.array(theirs)
    wins, gaps = (np.sign(first - second) + 1) / 2, first - second
    return {
        "win_rate": float(wins.mean()),
        "win_interval": _interval(wins, seed),
        "ties": float((gaps == 0).mean()),
        "difference": float(gaps.mean()),
        "difference_interval": _interval(gaps, seed),
        "means": [float(first.mean()), float(second.mean())],
        "deviations": [float(first.std()), float(second.std())],
    }


def _interval(values: Numbers, seed: int) -> list[float]:
    """The 95 % interval of a mean: percentiles of the means of bootstrap samples."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(SAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(low), float(high)]


def scored(reward: Reward, prompts: Sequence[Prompt], answers: Sequence[Completion]) -> list[float]:
    """What each answer is worth."""
    return reward(
        [answered(item, answer.text, answer.reason != "length") for item, answer in zip(prompts, answers, strict=True)]
    )


@torch.no_grad()
def kl_of(base: Model, form: AnswerFormat, prompts: Sequence[Prompt], answers: Sequence[Completion]) -> float:
    """How far the model that wrote answers is from another: KL in nats an answer, estimated by these answers.

    Args:
        base: the other model, with the same tokens.
        form: how prompts became tokens.
        prompts: that were answered.
        answers: drawn at temperature 1, with their log-probabilities.
    """
    apart = 0.0
    for start in range(0, len(answers), BATCH):
        part = slice(start, start + BATCH)
        rows = [form.prompt_ids(item.prompt) for item in prompts[part]]
        ids, real = padded([[*row, *answer.ids] for row, answer in zip(rows, answers[part], strict=True)], base.device)
        hidden = base.body(ids[:, :-1], None if real is None else real[:, :-1])
        found = log_probabilities(base.head.projection(hidden), ids[:, 1:])
        for row, answer, said in zip(rows, answers[part], found, strict=True):
            ours = torch.tensor([one.logprob for one in answer.logprobs or ()])
            apart += float((ours - said[len(row) - 1 : len(row) - 1 + len(ours)].cpu()).sum())
    return apart / len(answers)
