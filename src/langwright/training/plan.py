"""How many steps a run has: fixed, or fitted to a budget of time and fitted again as the run goes."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from langwright.objectives.batch import Batch
from langwright.training.learner import Learner

REPLAN_AT = (0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97, 0.985)
"""Shares of the budget after which the step count is fitted again."""

EARLY = 0.03
"""Steps that run out with more than this share of the budget left are fitted again too: the machine got faster."""


@dataclass
class Plan:
    """The step count, and the record of how it came about.

    steps: what the run now aims at. budget: seconds for the whole command, or None when the count is fixed.
    events: (step, steps, seconds) of each change, oldest first. A checkpoint carries them, so that a resumed run
    follows the same counts.
    """

    steps: int
    budget: float | None = None
    events: list[tuple[int, int, float]] = field(default_factory=list)
    _passed: int = 0

    def refit(self, step: int, elapsed: float, step_seconds: float, reserve: float) -> bool:
        """Fit the count to the time left, at `REPLAN_AT` and when the steps ran out early; true if it changed.

        step: steps done. elapsed: seconds the command has run. step_seconds: of one step, evaluations and saves
        spread over it. reserve: seconds that the end of the command still needs.
        """
        if self.budget is None:
            return False
        passed = sum(elapsed >= share * self.budget for share in REPLAN_AT)
        left = self.budget - elapsed - reserve
        early = step >= self.steps and left > EARLY * self.budget
        if passed <= self._passed and not early:
            return False
        self._passed = passed
        steps = step + max(0, round(left / step_seconds))
        if steps == self.steps:
            return False
        self.steps = steps
        self.events.append((step, steps, round(elapsed, 1)))
        return True


def measure_step(learner: Learner, batches: Iterator[Batch], steps: int = 6) -> float:
    """Seconds of one training step, the first left out (it warms up, or compiles).

    Nothing of it stays: the learning rate is zero, and the optimizer's memory and the random state are put back.
    """
    times = []
    with torch.random.fork_rng(devices=[learner.device] if learner.device.type == "cuda" else []):
        for _ in range(steps):
            began = time.monotonic()
            learner.backward(next(batches))
            if bool(learner.clip().isfinite()):
                learner.step(0.0)
            times.append(time.monotonic() - began)
    learner.forget()
    learner.masters.zero_gradients()
    return learner.ranks.agree(statistics.median(times[1:]))
