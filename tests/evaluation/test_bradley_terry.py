"""Scores from comparisons: cases worked by hand, logistic regression, and intervals that hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from langwright.evaluation.bradley_terry import DEVIATION, Ranked, bradley_terry, compare


def test_by_hand() -> None:
    """Three wins and a loss are odds of 3; a tie is half of each; a cycle is equal."""
    scores = bradley_terry(np.array([[0, 3.0], [1, 0]]), math.inf)
    np.testing.assert_allclose(scores, [math.log(3) / 2, -math.log(3) / 2], atol=1e-9)
    scores = bradley_terry(np.array([[0, 2.5], [1.5, 0]]), math.inf)
    np.testing.assert_allclose(scores[0] - scores[1], math.log(2.5 / 1.5), atol=1e-9)
    np.testing.assert_allclose(bradley_terry(np.roll(np.eye(3), 1, 1), math.inf), 0, atol=1e-9)
    # a : b = 2 : 1 and b : c = 2 : 1, never a : c: differences add up.
    chain = np.array([[0, 2.0, 0], [1, 0, 2], [0, 1, 0]])
    np.testing.assert_allclose(bradley_terry(chain, math.inf), np.array([1, 0, -1]) * math.log(2), atol=1e-9)
    with pytest.raises(ValueError, match="no scores are finite"):
        bradley_terry(np.array([[0, 3.0], [0, 0]]), math.inf)
    assert 0 < bradley_terry(np.array([[0, 3.0], [0, 0]]))[0] < 3  # with the prior
    rare = np.array([[0, 3.0], [1, 0]])
    assert abs(np.diff(bradley_terry(1e4 * rare)) + math.log(3)) < 1e-5  # which much data outweighs


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_logistic_regression(models: int, seed: int) -> None:
    """The same scores as sklearn's, for many tables at once."""
    rng = np.random.default_rng(seed)
    tables = rng.integers(0, 5, (2, models, models)) / 2.0
    tables[:, np.arange(models), np.arange(models)] = 0
    tables[:, 0, 1] += 1
    scores = bradley_terry(tables)
    for table, found in zip(tables, scores, strict=True):
        rows, labels, weights = [], [], []
        for i, j in np.argwhere(table):
            for sign in (1, -1):  # sklearn wants both classes
                rows.append(sign * (np.eye(models)[i] - np.eye(models)[j]))
                labels.append(sign > 0)
                weights.append(table[i, j] / 2)
        fit = LogisticRegression(C=DEVIATION**2, fit_intercept=False, tol=1e-12, max_iter=1000)
        np.testing.assert_allclose(found, fit.fit(rows, labels, weights).coef_[0], atol=1e-4)


def test_rankings() -> None:
    """Every pair of a ranking counts, ties half; three models, one of which is seldom there."""
    rankings = [
        Ranked("p", {"a": 1, "b": 2, "c": 2}),
        Ranked("p", {"a": 1, "b": 1}),
        Ranked("q", {"b": 1, "a": 2}),
    ]
    found = compare(rankings, resamples=50)
    pairs = {tuple(row["models"]): row for row in found["pairs"]}
    assert [(row["comparisons"], row["ties"], row["win_rate"]) for row in pairs.values()] == [
        (3, 1, 0.5), (1, 0, 1.0), (1, 1, 0.5),
    ]  # fmt: skip
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [row["model"] for row in found["models"]][2] == "c"
    wins = np.array([[0, 1.5, 1], [1.5, 0, 0.5], [0, 0.5, 0]])
    scores = dict(zip("abc", bradley_terry(wins), strict=True))
    for row in found["models"]:
        assert row["score"] == pytest.approx(scores[row["model"]])
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
    assert compare(rankings, resamples=50) == found
    assert compare([]) == {"models": [], "pairs": []}


def test_coverage() -> None:
    """Of 40 experiments with known scores, about 95 % have the difference in its interval; four labels of one unit
    that always agree make no interval narrower than one does."""
    rng, held = np.random.default_rng(3), 0
    truth = 1 / (1 + math.exp(-1.0))
    for _ in range(40):
        first = [int(a) for a in rng.random(150) < truth]
        found = compare([Ranked(str(i), {"a": 2 - a, "b": 1 + a}) for i, a in enumerate(first)], resamples=200)
        low, high = next(row["interval"] for row in found["models"] if row["model"] == "a")
        held += low <= 0.5 <= high
    assert 34 <= held <= 40
    fourfold = [Ranked(str(i), {"a": 2 - a, "b": 1 + a}) for i, a in enumerate(first) for _ in range(4)]
    wide = next(row["interval"] for row in compare(fourfold, resamples=200)["models"] if row["model"] == "a")
    assert wide[1] - wide[0] == pytest.approx(high - low, rel=0.05)
