"""Metrics of tasks: those of numbers, how sure they are, and how they are printed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from langwright.base.console import print_json, progress
from langwright.base.errors import UserError
from langwright.base.extras import need
from langwright.corpora.labelled import LabelledRow

LEVEL = 0.95
"""The share of resamples that an interval holds."""


def intervals(
    score: Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]],
    items: Sequence[Any],
    answers: Sequence[Any],
    *,
    resamples: int,
    seed: int = 0,
) -> dict[str, list[float]]:
    """The 95 % interval of each metric by the bootstrap: percentiles over rows drawn with replacement.

    Args:
        score: the metrics of rows and answers.
        items: the rows.
        answers: one for each.
        resamples: how often as many rows are drawn.
        seed: of the draws.

    Returns:
        The two ends for each metric. A resample that leaves a metric undefined does not count for it.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    with progress("bootstrap", resamples, "samples") as advance:
        for _ in range(resamples):
            rows = rng.integers(len(items), size=len(items))
            for name, value in score([items[i] for i in rows], [answers[i] for i in rows]).items():
                drawn.setdefault(name, []).append(value)
            advance(1)
    ends = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    return {name: np.nanpercentile(values, ends).tolist() for name, values in drawn.items()}


def print_scores(scores: Mapping[str, Any], as_json: bool) -> None:
    """Print metrics by their names in a line, with their intervals if there are any, or as one JSON object."""
    if as_json:
        print_json(scores)
        return
    ends = scores.get("intervals", {})
    shown = [
        f"{name.replace('_', ' ')} {value:.4f}" + (" ({:.4f} to {:.4f})".format(*ends[name]) if name in ends else "")
        for name, value in scores.items()
        if name not in ("rows", "intervals")
    ]
    print(f"{scores['rows']:,} held-out rows: {', '.join(shown)}", flush=True)


def correlations(truth: Sequence[float], found: Sequence[float]) -> dict[str, float]:
    """Spearman's and Pearson's correlation, and the mean squared error."""
    stats = need("scipy.stats", "metrics", "correlations")
    error = float(np.mean(np.square(np.array(truth) - np.array(found))))
    constant = len(set(truth)) < 2 or len(set(found)) < 2
    both = (0.0, 0.0) if constant else (stats.spearmanr(truth, found)[0], stats.pearsonr(truth, found)[0])
    return {"spearman": float(both[0]), "pearson": float(both[1]), "mean_squared_error": error}


def number(item: LabelledRow) -> float:
    """The label of a row as a number; UserError where it is none."""
    try:
        return float(item.label)
    except ValueError:
        raise UserError(f'{item.source}: the label "{item.label}" is not a number') from None
