"""Scores of models from who was preferred to whom, and how sure they are."""

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

DEVIATION = 5.0
"""Of the normal prior of each score. It keeps the score of a model that has won or lost everything finite."""
STEPS, LONGEST, NEAR = 200, 2.0, 1e-10
"""Newton steps, how far one may go, and when a score is found."""
ENDS = (2.5, 97.5)
"""Percent: of the resamples an interval holds 95 %."""


class Ranked(NamedTuple):
    """One ranking of models.

    Args:
        unit: what was ranked. Rankings of the same unit hang together, and are drawn together by the bootstrap.
        ranks: of each model, 1 for the best; equal ranks are ties.
    """

    unit: str
    ranks: Mapping[str, int]


def bradley_terry(
    wins: Float[np.ndarray, "*samples models models"], deviation: float = DEVIATION
) -> Float[np.ndarray, "*samples models"]:
    """The scores for which what was seen is likeliest, where i beats j with probability sigmoid(score_i - score_j).

    Args:
        wins: how often the model of the row was preferred to that of the column; a tie counts half for each.
        deviation: of the normal prior around 0; infinite for none.

    Returns:
        Scores in nats, whose sum is 0.

    Raises:
        ValueError: Without a prior, where some models beat all others that they met: no scores are finite.

    Source: Bradley and Terry, Rank analysis of incomplete block designs (1952); by Newton's method.
    """
    met, precision = wins + wins.swapaxes(-1, -2), deviation**-2
    diagonal = np.eye(wins.shape[-1])
    scores = np.zeros(wins.shape[:-1])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(scores[..., None, :] - scores[..., :, None]))
        slope = (wins - met * chance).sum(-1) - precision * scores
        weight = met * chance * (1 - chance)
        # Scores may all be shifted by the same: the ones say that their sum stays 0.
        curvature = diagonal * (weight.sum(-1)[..., None] + precision) - weight + 1
        try:
            step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        except np.linalg.LinAlgError:
            break
        size = np.abs(step).max(-1, keepdims=True, initial=0)
        scores = scores + step * np.minimum(1, LONGEST / np.maximum(size, NEAR))
        if (size < NEAR).all():
            return scores
    raise ValueError("some models have won or lost against all others: without a prior no scores are finite")


def compare(rankings: Sequence[Ranked], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Scores of models with 95 % intervals, and how often each was preferred to each other.

    Args:
        rankings: each of two models or more; every pair in one counts as a comparison.
        resamples: how often as many units are drawn with replacement; percentiles of the scores are the intervals.
        seed: of the draws.

    Returns:
        `models`, best first: `model`, `score` in nats, `interval`, `comparisons`, `win_rate` (ties count half); and
        `pairs`: `models`, `comparisons`, `ties`, `win_rate` of the first against the second, and its `interval`. What
        was seen in one unit alone has no interval: None.
    """
    if not rankings:
        return {"models": [], "pairs": []}
    names = sorted({name for ranking in rankings for name in ranking.ranks})
    units = {unit: number for number, unit in enumerate(dict.fromkeys(ranking.unit for ranking in rankings))}
    wins = np.zeros((len(units), len(names), len(names)))
    ties = np.zeros((len(names), len(names)), dtype=int)
    for unit, ranks in rankings:
        for first, second in permutations(ranks, 2):
            cell, equal = (names.index(first), names.index(second)), ranks[first] == ranks[second]
            wins[units[unit]][cell] += 0.5 if equal else ranks[first] < ranks[second]
            ties[cell] += equal
    drawn = np.random.default_rng(seed).multinomial(len(units), np.full(len(units), 1 / len(units)), resamples)
    total, again = wins.sum(0), np.tensordot(drawn, wins, 1)
    met, met_again = total + total.T, again + again.swapaxes(1, 2)
    scores, ends = bradley_terry(total), np.percentile(bradley_terry(again), ENDS, axis=0)
    models = [
        {
            "model": names[i],
            "score": float(scores[i]),
            "interval": ends[:, i].tolist() if len(units) > 1 else None,
            "comparisons": round(met[i].sum()),
            "win_rate": float(total[i].sum() / met[i].sum()),
        }
        for i in np.argsort(-scores, kind="stable")
    ]
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        if met[i, j]:
            there = met_again[:, i, j] > 0  # a sample may lack the pair
            rates = again[there, i, j] / met_again[there, i, j]
            row = {"models": [names[i], names[j]], "comparisons": round(met[i, j]), "ties": int(ties[i, j])}
            several = np.count_nonzero(wins[:, i, j] + wins[:, j, i]) > 1
            interval = np.percentile(rates, ENDS).tolist() if several else None
            pairs.append({**row, "win_rate": float(total[i, j] / met[i, j]), "interval": interval})
    return {"models": models, "pairs": pairs}
