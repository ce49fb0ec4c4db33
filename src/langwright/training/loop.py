"""The one training loop: batch, forward, loss, backward, clip, step, log, save, evaluate."""

import io
import itertools
import json
import math
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import IO, Any

import torch

from langwright.base.errors import UserError
from langwright.base.files import check_lock
from langwright.data.prefetch import prefetch
from langwright.data.supply import StatefulBatches, StepBatches
from langwright.objectives.batch import Batch
from langwright.training.checkpoints import Checkpoints
from langwright.training.learner import Learner, part
from langwright.training.optimizers import learning_rate_factor
from langwright.training.progress import Progress

Row = dict[str, Any]
MOST_SKIPS = 20
"""So many steps in a row without a finite loss and gradient end the run: the weights no longer change."""
MEASURED_STEPS = 6


@dataclass(frozen=True)
class Hooks:
    """What the loop is lent from above.

    Args:
        evaluate: gives numbers for the metrics, or none when `stopped()` turns true on the way.
        sample: a text to show.
        on_row: is given each row of the metrics.
        on_sample: is given step and text of each sample.
        on_event: is given each notable event.
        on_step: is given the number of each step before it begins.
        around_step: a context in which each step takes place, from its batch to its changed weights.
        drawn: what a row of training says of the data of so many steps.
    """

    evaluate: Callable[[Callable[[], bool]], Row] = lambda stopped: {}
    sample: Callable[[], str] | None = None
    on_row: Callable[[Row], None] = lambda row: None
    on_sample: Callable[[int, str], None] = lambda step, text: None
    on_event: Callable[[Row], None] = lambda event: None
    on_step: Callable[[int], None] = lambda step: None
    around_step: Callable[[], AbstractContextManager[None]] = nullcontext
    drawn: Callable[[int], Row] = lambda step: {}


class Run:
    """One training run in a folder. Of several ranks the first one keeps the log and all files.

    Args:
        learner: what is trained, and its recipe.
        batches: what it is trained on.
        checkpoints: of the folder.
        steps: how many; a budget changes that.
        hooks: what is lent from above.
        started: `time.monotonic()` of the command's start, against which a budget is measured.
        best: the number of an evaluation, the higher the better but for validation_loss, that chooses which weights are
            kept; the last ones unless given.
        patience: end after so many evaluations in a row without a better one.
    """

    def __init__(
        self,
        learner: Learner,
        batches: StepBatches | StatefulBatches,
        checkpoints: Checkpoints,
        steps: int = 0,
        hooks: Hooks = Hooks(),
        started: float = 0.0,
        best: str | None = None,
        patience: int | None = None,
    ):
        self.best, self.patience = best, patience
        self.learner, self.batches, self.checkpoints = learner, batches, checkpoints
        self.updates = batches.updates if isinstance(batches, StatefulBatches) else 1
        self.recipe, self.ranks, self.hooks, self.started = learner.recipe, learner.ranks, hooks, started
        self.out = checkpoints.folder.parent
        self.metrics = self.out / "metrics.jsonl"
        self.progress = Progress(steps=steps)
        self.budget = self.recipe.budget_seconds()
        self.closing = 0.0  # seconds that the command needs after the loop
        self._every = {name: self.recipe.every(f"{name}_every") for name in ("log", "save", "evaluate", "sample")}

    @property
    def elapsed(self) -> float:
        """Seconds since the command's start, over all its stretches."""
        return time.monotonic() - self.started

    def resume(self, free: tuple[str, ...] = ()) -> bool:
        """Take up the newest whole checkpoint of the folder; false when there is none. Nothing is written yet."""
        found = self.checkpoints.load(self.learner, self.batches, free)
        if found is None:
            return False
        steps, (self.progress, complaints) = self.progress.steps, found
        self.started -= self.progress.seconds
        if self.budget is None and not self.progress.ended:
            self.progress.steps = steps
        if self.progress.loader != self.batches.record():
            raise UserError(f"{self.out}: the data is not what the checkpoint was trained on: {self.progress.loader}")
        for complaint in complaints:
            self._event("broken checkpoint", detail=complaint)
        self._event("resumed")
        return True

    def fit(self) -> int | None:
        """Train until the plan is done. Returns the number of the signal that ended it early, or None.

        Metrics beyond the checkpoint that was taken up are cut off, so that metrics.jsonl tells each step once.
        """
        now, learner = self.progress, self.learner
        self.out.mkdir(parents=True, exist_ok=True)
        stream = self.stream()
        clock = _Clock(now.step, now.tokens)
        with _signals_noted() as signals, io.BytesIO() if self.ranks.rank else open(self.metrics, "ab") as metrics:
            metrics.truncate(min(now.metrics_offset, metrics.tell()))
            if self.best and 0 < now.step < now.steps and not self.ranks.rank and self._due("evaluate"):
                self._evaluate(metrics, signals)  # a checkpoint is written before the evaluation of its step
            while now.step < now.steps:
                self.hooks.on_step(now.step)
                factor = learning_rate_factor(self.recipe, now.step, now.steps)
                with self.hooks.around_step():
                    updates = [self._update(stream, factor) for _ in range(self.updates)]
                now.step += 1
                self._replan(clock)
                done = now.step >= now.steps
                if self._due("log") or done or now.step == 1:
                    self.log(
                        metrics,
                        **{name: sum(update[name] for update in updates) / len(updates) for name in updates[0]},
                        learning_rate=learner.learning_rate * factor,
                        tokens_per_second=round(clock.lap(now.tokens), 1),
                        steps=now.steps,
                        **self.hooks.drawn(now.step),
                    )
                if now.skips >= MOST_SKIPS:
                    raise UserError(
                        f"training came apart: {MOST_SKIPS} steps in a row had a loss or gradient that is not finite; "
                        "begin again in another folder with a lower --learning-rate"
                    )
                due = self._due("save") and not now.skips  # keep what may be the last good ones
                stopped = max(self.ranks.collect(max(signals, default=0)))
                if due or done or stopped:
                    with clock.aside("save"):
                        self._save(metrics)
                if stopped:
                    return stopped
                if done or self.ranks.rank:
                    continue
                if self._due("evaluate"):
                    with clock.aside("evaluate"):
                        self._evaluate(metrics, signals)
                if self._due("sample") and self.hooks.sample is not None:
                    with clock.aside("sample"), learner.measuring():
                        self.hooks.on_sample(now.step, self.hooks.sample())
        return None

    def _update(self, stream: Iterator[Batch], factor: float) -> dict[str, float]:
        """One batch, and the weights changed by it unless something is not finite; what there is to log of it."""
        now, learner = self.progress, self.learner
        with part("loader"):
            batch = next(stream)
        found = learner.backward(batch)
        with part("optimizer"):
            norm = learner.clip()
            finite = bool(found.loss.isfinite() & norm.isfinite())
            if finite:
                learner.step(factor)
        numbers = {"loss": float(found.loss), "gradient_norm": float(norm)}
        now.tokens += int(found.tokens)
        now.skips = 0 if finite else now.skips + 1
        if not finite:
            samples = learner.culprits(batch)
            self._event("not finite", samples=samples, loss=numbers["loss"], norm=numbers["gradient_norm"])
        return numbers | {name: float(mean) for name, mean in found.measured.items()}

    def _evaluate(self, metrics: IO[bytes], signals: list[int]) -> None:
        """Measure the held-out data; keep the weights that are the best so far, and end where nothing gets better."""
        now = self.progress
        with self.learner.measuring():
            numbers = self.hooks.evaluate(lambda: bool(signals))
        if not numbers:
            return
        self.log(metrics, **numbers)
        if self.best is None:
            return
        self._compare(numbers)
        if self.patience is not None and now.stale >= self.patience:
            now.steps, now.ended = now.step, True
            self._event("nothing got better", evaluations=now.stale)
            self._save(metrics)

    def _compare(self, numbers: Row) -> None:
        """Keep the weights of the numbers if they are the best so far."""
        now = self.progress
        if now.best is None or self._rank(numbers) > tuple(now.best[1:]):
            now.best, now.stale = [now.step, *self._rank(numbers)], 0
            self.checkpoints.save_best(self.learner, now.step)
        else:
            now.stale += 1

    def _rank(self, numbers: Row) -> tuple[float, float]:
        """What says which weights are better: the metric, and the loss where that is equal."""
        loss = -float(numbers["validation_loss"])
        return (loss if self.best == "validation_loss" else float(numbers[str(self.best)])), loss

    def take_best(self, numbers: Row) -> bool:
        """Put the best weights back, if those at the end, which measure as these numbers, are not; whether it did."""
        if self.best is None:
            return False
        if self.progress.best is None or self._rank(numbers) > tuple(self.progress.best[1:]):
            return False
        self.checkpoints.load_best(self.learner, self.progress.best[0])
        self._event("best weights", detail=f"those of step {self.progress.best[0]}")
        return True

    def stream(self) -> Iterator[Batch]:
        """The batches of the steps to come."""
        batches = self.batches
        if isinstance(batches, StatefulBatches):
            return (batches.next(self.learner.models) for _ in itertools.count())
        return prefetch(map(batches.batch, itertools.count(self.progress.step)))

    def measure_step(self) -> float:
        """Seconds of one training step, the first left out (it warms up, or compiles).

        Nothing of it stays: the learning rate is zero, and all states are put back.
        """
        learner, batches, times = self.learner, self.batches, []
        before = batches.state() if isinstance(batches, StatefulBatches) else {}
        with torch.random.fork_rng(devices=[learner.device] if learner.device.type == "cuda" else []):
            stream = self.stream()
            for _ in range(MEASURED_STEPS):
                began = time.monotonic()
                for _ in range(self.updates):
                    learner.backward(next(stream))
                    if bool(learner.clip().isfinite()):
                        learner.step(0.0)
                times.append(time.monotonic() - began)
        learner.forget()
        learner.masters.zero_gradients()
        if isinstance(batches, StatefulBatches):
            batches.load(before)
        return self.ranks.agree(statistics.median(times[1:]))

    def _due(self, name: str) -> bool:
        return self._every[name] > 0 and self.progress.step % self._every[name] == 0

    def log(self, metrics: IO[bytes], **numbers: Any) -> None:
        """Write a row of the metrics."""
        check_lock(self.out)
        row = {"step": self.progress.step, "tokens": self.progress.tokens, "seconds": round(self.elapsed, 3), **numbers}
        metrics.write(json.dumps({name: _json_safe(value) for name, value in row.items()}).encode() + b"\n")
        metrics.flush()
        self.hooks.on_row(row)

    def _event(self, kind: str, **detail: Any) -> None:
        detail = {name: value if _json_safe(value) is not None else str(value) for name, value in detail.items()}
        event = {"step": self.progress.step, "event": kind, **detail}
        self.progress.history.append(event)
        self.hooks.on_event(event)

    def _save(self, metrics: IO[bytes]) -> None:
        check_lock(self.out)
        now = self.progress
        now.seconds, now.metrics_offset, now.loader = self.elapsed, metrics.tell(), self.batches.record()
        self.checkpoints.save(self.learner, self.batches, now)

    def _replan(self, clock: "_Clock") -> None:
        now = self.progress
        if self.budget is None or now.step >= now.steps:
            return
        per_step = (time.monotonic() - clock.began) / (now.step - clock.step)  # everything beside it spread over steps
        reserve = self.closing + clock.latest["save"] + clock.latest["evaluate"]  # what the end still brings
        elapsed, per_step, reserve = self.ranks.agree((self.elapsed, per_step, reserve))
        if now.refit(self.budget, elapsed, per_step, reserve):
            self._event("re-planned", steps=now.steps, seconds=round(elapsed, 1))


class _Clock:
    """Where the time of a loop goes: training steps, and what happens beside them."""

    def __init__(self, step: int, tokens: int):
        self.began = self.lapped = time.monotonic()
        self.step, self.tokens = step, tokens
        self.latest: dict[str, float] = defaultdict(float)

    @contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Time something that is not training; laps leave it out."""
        began = time.monotonic()
        yield
        self.latest[name] = time.monotonic() - began
        self.lapped += self.latest[name]

    def lap(self, tokens: int) -> float:
        """Tokens a second since the lap before."""
        now = time.monotonic()
        speed = (tokens - self.tokens) / max(now - self.lapped, 1e-9)
        self.lapped, self.tokens = now, tokens
        return speed


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """While the block runs, SIGINT and SIGTERM are noted in the list; a second one ends the process as usual."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        noted.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        restore()


def _json_safe(value: Any) -> Any:
    """JSON has no word for NaN and infinity: null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
