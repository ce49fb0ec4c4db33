"""Where a run stands, and how many steps it has: fixed, or fitted to a budget of time and fitted again as it goes."""

from dataclasses import dataclass, field
from typing import Any

REPLAN_AT = (0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97, 0.985)
"""Shares of the budget after which the step count is fitted again."""


@dataclass
class Progress:
    """Where a run stands, besides weights and optimizer; checkpoints carry it.

    Args:
        step: steps done so far.
        tokens: the same in targets.
        seconds: the same in time.
        metrics_offset: bytes of metrics.jsonl that belong to these steps.
        steps: what the run now aims at.
        plan: (step, steps, seconds) of each time a budget was turned into a count of steps.
        loader: the record of the batches.
        history: notable events, for the report.
        skips: steps in a row, up to this one, whose loss or gradient was not finite.
        best: step, metric and negative loss of the best evaluation, where one chooses the weights that are kept.
        stale: evaluations since then.
        ended: whether the run ended because nothing got better.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    metrics_offset: int = 0
    steps: int = 0
    plan: list[Any] = field(default_factory=list)
    loader: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    skips: int = 0
    best: list[Any] | None = None
    stale: int = 0
    ended: bool = False

    def fit(self, budget: float, elapsed: float, step_seconds: float, reserve: float) -> bool:
        """Fit the step count to the time left; true if it changed.

        Args:
            budget: seconds for the whole command.
            elapsed: seconds that it has run.
            step_seconds: of one step, evaluations and saves spread over it.
            reserve: seconds that the end of the command still needs.
        """
        steps = self.step + max(0, int((budget - elapsed - reserve) / step_seconds))
        if steps == self.steps:
            return False
        self.steps = steps
        self.plan.append((self.step, steps, round(elapsed, 1)))
        return True

    def refit(self, budget: float, elapsed: float, step_seconds: float, reserve: float) -> bool:
        """The same, where a moment of `REPLAN_AT` has come since the count was last changed."""
        before = self.plan[-1][2] if self.plan else 0.0
        due = any(before < share * budget <= elapsed for share in REPLAN_AT)
        return due and self.fit(budget, elapsed, step_seconds, reserve)
