"""Thresholds of cascades: a table by hand, every threshold tried, budgets kept."""

import itertools

import numpy as np
import pytest

from langwright.pipelines.thresholds import Policy, choose, frontier, measure, outcome

SCORES = np.array([[0.9, 0], [0.8, 0], [0.4, 0], [0.4, 0], [0.1, 0.0]])
RIGHT = np.array([[1.0, 1], [1, 1], [0, 1], [1, 0], [0, 1]])
COSTS = np.array([[1.0, 10], [1, 10], [1, 10], [1, 10], [1, 10]])


def test_a_table_by_hand() -> None:
    # Deferring the last row: 4 of 5 right for (5 + 10) / 5; deferring the two of equal score as well gains nothing.
    assert frontier(SCORES, RIGHT, COSTS) == [Policy((0,), (), 0.6, 1.0), Policy((0, 1), (0.4,), 0.8, 3.0)]
    good, spent, stage = outcome(Policy((0, 1), (0.4,), 0, 0), SCORES, RIGHT, COSTS)
    assert (good.tolist(), spent.tolist(), stage.tolist()) == ([1, 1, 0, 1, 1], [1, 1, 1, 1, 11], [0, 0, 0, 0, 1])


def test_a_score_costs_where_one_is_wanted() -> None:
    # Alone, a model is not scored; the first of two is on all five rows, the second on none.
    checks = np.full_like(COSTS, 0.5)
    found = frontier(SCORES, RIGHT, COSTS, checks)
    assert found == [Policy((0,), (), 0.6, 1.0), Policy((0, 1), (0.4,), 0.8, 3.5)]
    assert outcome(found[1], SCORES, RIGHT, COSTS, checks)[1].tolist() == [1.5, 1.5, 1.5, 1.5, 11.5]
    assert measure(found, SCORES, RIGHT, COSTS, checks).points[1].cost == 3.5


@pytest.mark.parametrize("seed", range(8))
def test_no_threshold_of_a_free_model_is_infinite(seed: int) -> None:
    # It is wrong always: passing on every row would be as good as the other one alone.
    scores, right, costs = rows(30, 2, seed)
    policies = frontier(scores, right * 0 + [0, 1], costs * [0, 1])
    assert all(np.isfinite(policy.thresholds).all() for policy in policies)


def rows(count: int, models: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers that are right more often where the score is high, and from dearer models."""
    random = np.random.default_rng(seed)
    hard = random.random((count, 1))
    right = (random.random((count, models)) * 1.4 > hard - np.linspace(0, 0.5, models)).astype(float)
    scores = np.clip(0.6 * right + 0.4 * random.random((count, models)), 0, 1).round(2)
    return scores, right, 4.0 ** np.arange(models) * (0.5 + random.random((count, models)))


@pytest.mark.parametrize("seed", range(4))
def test_two_stages_are_as_good_as_every_threshold_tried(seed: int) -> None:
    scores, right, costs = rows(30, 2, seed)
    policies = frontier(scores, right, costs)
    tried = [Policy((0, 1), (t,), 0, 0) for t in (*np.unique(scores[:, 0]), 2.0)] + [
        Policy((m,), (), 0, 0) for m in (0, 1)
    ]
    found = [outcome(policy, scores, right, costs)[:2] for policy in tried]
    for good, spent in found:
        best = choose(policies, float(spent.mean()) + 1e-9)
        assert best is not None
        assert best.accuracy >= good.mean() - 1e-9
    for policy in policies:
        good, spent, _ = outcome(policy, scores, right, costs)
        assert (policy.accuracy, policy.cost) == pytest.approx((good.mean(), spent.mean()))


def test_budgets_are_kept_and_more_money_never_gives_less() -> None:
    scores, right, costs = rows(200, 3, 0)
    policies = frontier(scores, right, costs)
    assert any(len(policy.chain) == 3 for policy in policies)
    accuracies = []
    for budget in np.linspace(costs[:, 0].mean(), costs.sum(1).mean(), 20):
        best = choose(policies, float(budget))
        assert best is not None
        _, spent, _ = outcome(best, scores, right, costs)
        assert spent.mean() <= budget + 1e-9
        accuracies.append(best.accuracy)
    assert accuracies == sorted(accuracies)
    assert choose(policies, float(costs[:, 0].mean()) / 2) is None


def test_the_curve_lies_between_chance_and_the_oracle() -> None:
    fitted, held = rows(400, 3, 1), rows(400, 3, 2)
    curve = measure(frontier(*fitted), *held)
    assert curve.random < curve.area < curve.oracle[0]
    for point in curve.points:
        low, high = point.accuracy_interval
        assert low <= point.accuracy <= high
        assert high - low < 0.12
    assert [cost for _, cost in curve.singles] == sorted(cost for _, cost in curve.singles)
    for (a, c), (b, d) in itertools.pairwise(curve.singles):
        assert (a < b) == (c < d)
