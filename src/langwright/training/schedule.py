"""Learning rates over a run."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then decay, as a factor of the peak learning rate.

    kind: "linear" and "cosine" fall from the peak at once; "trapezoid" stays there and falls linearly over the last
    `decay` of the run. warmup, decay, final: shares of the run, and of the peak at its end.
    """

    kind: Literal["linear", "cosine", "trapezoid"] = "trapezoid"
    warmup: float = 0.02
    decay: float = 0.6
    final: float = 0.0

    def factor(self, step: int, steps: int) -> float:
        """The factor of step `step` (from 0) of `steps`; the last step has almost reached `final`."""
        done = (step + 1) / (steps + 1)
        if done < self.warmup:
            return done / self.warmup
        fall = 1 - self.warmup if self.kind != "trapezoid" else self.decay
        left = min(1.0, (1 - done) / fall) if fall else 1.0
        shape = (1 - math.cos(math.pi * left)) / 2 if self.kind == "cosine" else left
        return self.final + (1 - self.final) * shape
