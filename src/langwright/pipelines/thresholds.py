"""Which models a cascade asks, and from which score on it accepts their answers, fitted on rows of known answers.

All functions here take scores, whether answers are right and what they cost as arrays [rows, models], and `checks`,
what scoring each answer cost. A policy is a chain of models and a threshold for each but the last, whose answer is
always taken and never scored; a single model is a chain of one.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Table = Float[np.ndarray, "rows models"]
Paid = Float[np.ndarray, "rows stages"]
Column = Float[np.ndarray, " rows"]
Numbers = Int[np.ndarray, " some"]
"""Of rows or stages."""
GRID = 24
"""Quantiles that are tried for the thresholds of all stages but the last two, for which all scores are."""
LONGEST = 4


@dataclass(frozen=True)
class Policy:
    """A chain of models (their numbers), the thresholds of all but the last, and what it gave on the rows it was
    fitted on: the share of right answers, and the mean cost of a row.
    """

    chain: tuple[int, ...]
    thresholds: tuple[float, ...]
    accuracy: float
    cost: float


def outcome(
    policy: Policy, scores: Table, right: Table, costs: Table, checks: Table | None = None
) -> tuple[Column, Column, Numbers]:
    """Of each row whether the answer is right, what all stages asked cost together, and the number of the stage."""
    rows = np.arange(len(scores))
    open_, stage = np.ones(len(rows), bool), np.zeros(len(rows), int)
    paid = _stages(policy.chain, costs, checks)
    total = paid[:, 0].copy()
    for number, (model, threshold) in enumerate(zip(policy.chain, policy.thresholds, strict=False)):
        open_ &= scores[:, model] < threshold
        stage[open_] = number + 1
        total[open_] += paid[open_, number + 1]
    return right[rows, np.array(policy.chain)[stage]], total, stage


def frontier(
    scores: Table, right: Table, costs: Table, checks: Table | None = None, longest: int = LONGEST
) -> list[Policy]:
    """The best policies: for every cost the most accurate that costs no more, cheapest first.

    Chains go from models that are cheaper on average to dearer ones. Two stages are swept exactly: every score is tried
    as threshold. Of longer chains the earlier thresholds are quantiles of the scores that are left.
    """
    order = np.argsort(costs.mean(0), kind="stable")
    found: list[Policy] = []
    for length in range(1, min(longest, len(order)) + 1):
        for chain in itertools.combinations(order.tolist(), length):
            found += _policies(chain, scores, right, _stages(chain, costs, checks))
    best: list[Policy] = []
    for policy in sorted(found, key=lambda p: (p.cost, -p.accuracy, len(p.chain))):
        if not best or policy.accuracy > best[-1].accuracy:
            best.append(policy)
    return best


def choose(policies: Sequence[Policy], budget: float) -> Policy | None:
    """The most accurate policy whose mean cost is within the budget; None where every one costs more."""
    within = [policy for policy in policies if policy.cost <= budget]
    return max(within, key=lambda policy: policy.accuracy, default=None)


def _stages(chain: tuple[int, ...], costs: Table, checks: Table | None) -> Paid:
    """What each stage of a chain costs: the answer and, of all but the last, its score."""
    paid = costs[:, list(chain)]
    if checks is not None:
        paid[:, :-1] += checks[:, list(chain[:-1])]
    return paid


def _policies(chain: tuple[int, ...], scores: Table, right: Table, paid: Paid) -> list[Policy]:
    """The best policies of one chain, whose stages cost what `paid` says."""
    count = len(scores)
    done: list[Policy] = []

    def go(stage: int, thresholds: tuple[float, ...], left: Numbers, good: float, spent: float) -> None:
        """Fit the stages from `stage` on, of the rows `left`; good and spent are sums of what came before."""
        model = chain[stage]
        spent += paid[left, stage].sum()
        if stage == len(chain) - 1:
            done.append(Policy(chain, thresholds, (good + right[left, model].sum()) / count, spent / count))
        elif stage == len(chain) - 2:
            done.extend(_sweep(chain, thresholds, left, good, spent, scores, right, paid))
        else:
            for threshold in np.unique(np.quantile(scores[left, model], np.linspace(0, 1, GRID))) if len(left) else ():
                passed = scores[left, model] < threshold
                kept = right[left[~passed], model].sum()
                go(stage + 1, (*thresholds, float(threshold)), left[passed], good + kept, spent)

    go(0, (), np.arange(count), 0.0, 0.0)
    return done


def _sweep(
    chain: tuple[int, ...],
    thresholds: tuple[float, ...],
    left: Numbers,
    good: float,
    spent: float,
    scores: Table,
    right: Table,
    paid: Paid,
) -> list[Policy]:
    """All thresholds between two last stages, in O(n log n): rows sorted by score go to the last one by one.

    Not all rows go on: the chain without the first of the two does the same for less.
    """
    first, last = chain[-2:]
    left = left[np.argsort(scores[left, first], kind="stable")]
    own = scores[left, first]
    accuracy = (
        good + right[left, first].sum() + np.concatenate([[0], np.cumsum(right[left, last] - right[left, first])])
    )
    cost = spent + np.concatenate([[0], np.cumsum(paid[left, -1])])
    # k rows go on where the threshold lies above k scores and not above the next: between equal scores it cannot.
    ends, count = np.flatnonzero(np.diff(own, prepend=-np.inf)), len(scores)
    return [
        Policy(chain, (*thresholds, float(own[k])), float(accuracy[k]) / count, float(cost[k]) / count) for k in ends
    ]


@dataclass(frozen=True)
class Point:
    """A policy measured on rows it was not fitted on; intervals hold 95 % of the bootstrap."""

    policy: Policy
    accuracy: float
    cost: float
    accuracy_interval: tuple[float, float]
    cost_interval: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """The deferral curve on test rows.

    Args:
        points: of the policies, cheapest first.
        singles: accuracy and cost of each model alone.
        area: the mean accuracy of the policies from the cheapest model's cost to the dearest's.
        random: the mean accuracy of deferring at random between the best single models.
        oracle: accuracy and cost of asking the cheapest model that is right, else the cheapest.
    """

    points: tuple[Point, ...]
    singles: tuple[tuple[float, float], ...]
    area: float
    random: float
    oracle: tuple[float, float]


def measure(
    policies: Sequence[Policy], scores: Table, right: Table, costs: Table, checks: Table | None = None, seed: int = 0
) -> Curve:
    """What policies give on rows they were not fitted on, beside single models, chance, and an oracle."""
    draws = np.random.default_rng(seed).integers(0, len(scores), (1000, len(scores)))
    points = []
    for policy in policies:
        good, spent, _ = outcome(policy, scores, right, costs, checks)
        intervals = [np.quantile(values[draws].mean(1), (0.025, 0.975)) for values in (good, spent)]
        accuracy, cost = ((float(low), float(high)) for low, high in intervals)
        points.append(Point(policy, float(good.mean()), float(spent.mean()), accuracy, cost))
    singles = list(zip(right.mean(0).tolist(), costs.mean(0).tolist(), strict=True))
    order = np.argsort(costs.mean(0), kind="stable")
    right_by_cost = right[:, order] > 0
    asked = order[np.where(right_by_cost.any(1), right_by_cost.argmax(1), 0)]
    rows = np.arange(len(scores))
    oracle = float(right[rows, asked].mean()), float(costs[rows, asked].mean())
    low, high = min(cost for _, cost in singles), max(cost for _, cost in singles)
    steps = [(point.accuracy, point.cost) for point in points]
    return Curve(tuple(points), tuple(singles), _area(steps, low, high), _line(singles, low, high), oracle)


def _area(points: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """The mean over costs from low to high of the best accuracy of the points that cost no more; 0 without points."""
    if not points:
        return 0.0
    costs = np.linspace(low, high, 200)
    ordered = sorted(points, key=lambda point: point[1])
    found = [max((a for a, c in ordered if c <= cost), default=ordered[0][0]) for cost in costs]
    return float(np.mean(found))


def _line(singles: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """The mean over costs of the accuracy of tossing a coin between two models: the upper hull of single models."""
    costs = np.linspace(low, high, 200)
    best = np.full(200, min(accuracy for accuracy, _ in singles))
    for (a, c), (b, d) in itertools.product(singles, repeat=2):
        share = np.clip((costs - c) / (d - c), 0, 1) if d > c else np.zeros(200)
        best = np.where(costs >= c, np.maximum(best, a + share * (b - a)), best)
    return float(best.mean())
