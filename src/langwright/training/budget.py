"""From seconds to steps."""

import statistics
import time
from collections.abc import Iterator

import torch

from langwright.objectives.batch import Batch
from langwright.training.learner import Learner


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
    return statistics.median(times[1:])
