"""Reward models: scored answers, what makes scores comparable, and how far they can be trusted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.base.console import warn
from langwright.base.errors import UserError
from langwright.base.files import read_object
from langwright.corpora.preferences import Asked
from langwright.data.preferences import AnswerExample, AnswerFormat, RankedExample, fitted, format_of, ranked_rows
from langwright.models.folder import RECORD
from langwright.models.model import Model
from langwright.pipelines.opening import Opening
from langwright.text.tokenizer import Tokenizer

Row = dict[str, Any]
Numbers = NDArray[np.float64]
LABEL = "reward"
"""What the one output of a reward model is called."""
BATCH = 16
"""Answers in a forward pass."""
SAMPLES = 1000
"""Of a bootstrap."""
BINS = 10
"""Of a calibration curve, each with as many pairs."""
CORRELATED = 0.7
"""Above this correlation with length, half of the variance of a score is its length."""


@dataclass(frozen=True)
class RewardModel:
    """A model that scores answers.

    Args:
        model: with a head of one output.
        form: how prompts and answers become tokens.
        shift, scale: a reward is (score - shift) / scale.
    """

    model: Model
    form: AnswerFormat
    shift: float = 0.0
    scale: float = 1.0

    @classmethod
    def open(
        cls, folder: Path, opening: Opening = Opening(dtype="auto"), policy: Tokenizer | None = None
    ) -> "RewardModel":
        """The reward model in a folder.

        Args:
            folder: as `langwright align --method reward` leaves it; with `opening.adapter`, of the base.
            opening: how it is opened.
            policy: the tokenizer of who writes the answers, which must be the same.

        Raises:
            UserError: It is none, or has another tokenizer.
        """
        model, tokenizer = opening.open(folder)
        trained = folder if opening.adapter is None else opening.adapter
        told = read_object(trained / RECORD, "the record of the model", optional=True).get("task")
        if not isinstance(told, dict) or told.get("name") != LABEL or model.task != "sequence":
            raise UserError(f"{trained}: is no reward model; langwright align MODEL DATA OUT --method reward makes one")
        if policy is not None and tokenizer.fingerprint() != policy.fingerprint():
            raise UserError(f"{trained}: the reward model has another tokenizer than the policy")
        form = format_of(told["format"], tokenizer, str(trained))
        return cls(model, form, float(told["shift"]), float(told["scale"]))

    def rewards(self, answered: Sequence[tuple[Asked, str]]) -> list[float]:
        """The reward of each answer to its prompt; what is longer than the context loses its end."""
        return self.rewards_of([fitted(self.form, *one, self.model.window) for one in answered])

    def rewards_of(self, examples: Sequence[AnswerExample]) -> list[float]:
        """The same of answers as ids."""
        return ((scores_of(self.model, examples) - self.shift) / self.scale).tolist()


@torch.no_grad()
def scores_of(model: Model, examples: Sequence[AnswerExample], stopped: Callable[[], bool] = lambda: False) -> Numbers:
    """What a head of one output makes of each answer; those of about one length are read together."""
    found = np.full(len(examples), np.nan)
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))
    for start in range(0, len(order), BATCH):
        if stopped():
            break
        here = order[start : start + BATCH]
        rows = ranked_rows([RankedExample((examples[i],)) for i in here], model.window)
        batch: Any = rows.batch(np.arange(len(here)), np.arange(len(here))).to(model.device)
        found[here] = batch.scores(model)[:, 0].cpu().numpy()
    return found


def report_of(examples: Sequence[RankedExample], scores: Sequence[Numbers], seed: int = 0) -> Row:
    """How far the scores of answers in order can be trusted, in pairs of answers to one prompt.

    Args:
        examples: rows of answers, the best one first.
        scores: of the answers of each row, as the model gives them.
        seed: of the bootstrap.

    Returns:
        `accuracy` (share of the pairs in order, a tie counting half) with a 95 % interval of bootstrap samples of rows;
        `calibration`, for tenths of the pairs by the chance that the model gives them, that chance and how often it was
        right; and of lengths, `length_correlation` (Spearman, of score and tokens of an answer) and `length_accuracy`,
        how often the longer one is the better, or the shorter one if that is more often so.
    """
    rights, chances, longer = [], [], []
    for example, row in zip(examples, scores, strict=True):
        first, second = np.triu_indices(len(row), 1)
        gaps = row[first] - row[second]
        sizes = np.array([answer.length for answer in example.answers])
        rights.append(_order(gaps).mean())
        longer.append(_order(sizes[first] - sizes[second]).mean())
        chances += gaps.tolist()
    accuracy, by_length = float(np.mean(rights)), float(np.mean(longer))
    drawn = np.random.default_rng(seed).integers(len(rights), size=(SAMPLES, len(rights)))
    low, high = np.quantile(np.array(rights)[drawn].mean(1), [0.025, 0.975]).tolist()
    every = np.concatenate(list(scores))
    lengths = np.array([answer.length for example in examples for answer in example.answers])
    return {
        "accuracy": accuracy,
        "interval": [low, high],
        "calibration": calibration(np.array(chances)),
        "length_correlation": spearman(every, lengths),
        "length_accuracy": max(by_length, 1 - by_length),
        "longer_is_better": by_length >= 0.5,
    }


def calibration(gaps: Numbers) -> list[Row]:
    """How sure a model is of its choices, and how often it is right, for tenths of the pairs by how sure it is.

    gaps: the score of the better answer minus that of the other, whose logistic function is the chance it is given.
    """
    sure = 1 / (1 + np.exp(-np.abs(gaps)))
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, len(gaps))) if len(part)]
    right = _order(gaps)
    return [{"chance": sure[p].mean().item(), "right": right[p].mean().item(), "pairs": len(p)} for p in parts]


def spearman(a: Numbers, b: NDArray[Any]) -> float:
    """The correlation of the ranks of two lists of numbers, ties sharing their mean rank; 0 where one is constant."""
    ranks = [_ranks(values) for values in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[Any]) -> Numbers:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _order(gaps: NDArray[Any]) -> Numbers:
    """1 where a pair is in order, 0 where it is not, half for a tie."""
    return (np.sign(gaps) + 1) / 2


def warn_of_length(report: Row) -> None:
    """A warning where the length of an answer alone explains its score."""
    correlation, by_length = report["length_correlation"], report["length_accuracy"]
    which = "longer" if report["longer_is_better"] else "shorter"
    if abs(correlation) >= CORRELATED:
        warn(
            f"the score follows the length of an answer (rank correlation {correlation:.2f}): a policy would learn to "
            f"write {'more' if correlation > 0 else 'less'}"
        )
    elif by_length >= report["accuracy"]:
        warn(
            f"the {which} answer is the better one in {by_length:.1%} of the pairs, and the model right in "
            f"{report['accuracy']:.1%}: length alone explains its score"
        )
