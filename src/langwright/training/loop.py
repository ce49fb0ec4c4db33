"""The one training loop: batch, forward, loss, backward, clip, step, log, save, evaluate."""

import io
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from langwright.base.errors import UserError
from langwright.data.prefetch import prefetch
from langwright.data.supply import StatefulBatches, StepBatches
from langwright.objectives.batch import Batch
from langwright.training.checkpoints import Checkpoints, Progress
from langwright.training.interrupt import Interrupt
from langwright.training.learner import Learner, part
from langwright.training.plan import Plan
from langwright.training.schedule import Schedule

Row = dict[str, Any]
MOST_SKIPS = 20
"""So many steps in a row without a finite loss and gradient end the run: the weights no longer change."""


@dataclass(frozen=True)
class Every:
    """How often things happen, in steps; 0 for never."""

    log: int = 10
    save: int = 200
    evaluate: int = 200
    sample: int = 0


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
    """

    evaluate: Callable[[Callable[[], bool]], Row] = lambda stopped: {}
    sample: Callable[[], str] | None = None
    on_row: Callable[[Row], None] = lambda row: None
    on_sample: Callable[[int, str], None] = lambda step, text: None
    on_event: Callable[[Row], None] = lambda event: None
    on_step: Callable[[int], None] = lambda step: None
    around_step: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass
class Run:
    """One training run in a folder. Of several ranks the first one keeps the log and all files.

    Args:
        learner: what is trained.
        batches: what it is trained on.
        plan: how many steps.
        schedule: of the learning rate.
        checkpoints: of the folder.
        metrics: the path of metrics.jsonl.
        every: how often things happen.
        hooks: what is lent from above.
        started: `time.monotonic()` of the command's start, against which a budget is measured.
        closing: seconds that the command needs after the loop.
        check: raises where the folder is no longer the run's own; called before anything is written there.
    """

    learner: Learner
    batches: StepBatches | StatefulBatches
    plan: Plan
    schedule: Schedule
    checkpoints: Checkpoints
    metrics: Path
    every: Every
    hooks: Hooks
    started: float
    closing: float = 0.0
    check: Callable[[], None] = lambda: None
    step: int = 0
    tokens: int = 0
    metrics_offset: int = 0
    skips: int = 0
    history: list[Row] = field(default_factory=list)

    def resume(self, free: tuple[str, ...] = ()) -> bool:
        """Take up the newest whole checkpoint of the folder; false when there is none. Nothing is written yet."""
        found = self.checkpoints.load(self.learner, self.batches, free)
        if found is None:
            return False
        progress, complaints = found
        self.step, self.tokens, self.history = progress.step, progress.tokens, list(progress.history)
        self.started -= progress.seconds
        if self.plan.budget is not None:
            self.plan.steps, self.plan.events = progress.steps, [tuple(event) for event in progress.plan]
        if progress.loader != self.batches.record():
            raise UserError(
                f"{self.metrics.parent}: the data is not what the checkpoint was trained on: {progress.loader}"
            )
        self.metrics_offset, self.skips = progress.metrics_offset, progress.skips
        for complaint in complaints:
            self._event("broken checkpoint", detail=complaint)
        self._event("resumed")
        return True

    def fit(self) -> int | None:
        """Train until the plan is done. Returns the number of the signal that ended it early, or None.

        Metrics beyond the checkpoint that was taken up are cut off, so that metrics.jsonl tells each step once.
        """
        self.metrics.parent.mkdir(parents=True, exist_ok=True)
        stream = self.stream()
        clock = _Clock(self.step, self.tokens)
        with Interrupt() as interrupt, self._open_metrics() as metrics:
            metrics.truncate(min(self.metrics_offset, metrics.tell()))
            while self.step < self.plan.steps:
                self.hooks.on_step(self.step)
                factor = self.schedule.factor(self.step, self.plan.steps)
                with self.hooks.around_step():
                    with part("loader"):
                        batch = next(stream)
                    loss, targets = self.learner.backward(batch)
                    with part("optimizer"):
                        norm = self.learner.clip()
                        finite = bool(loss.isfinite() & norm.isfinite())
                        if finite:
                            self.learner.step(factor)
                self.skips = 0 if finite else self.skips + 1
                if not finite:
                    self._event("not finite", samples=self.learner.culprits(batch), loss=float(loss), norm=float(norm))
                self.step += 1
                self.tokens += int(targets)
                self._replan(clock)
                done = self.step >= self.plan.steps
                if self.step % self.every.log == 0 or done or self.step == 1:
                    self._log(metrics, self._row(clock, float(loss), float(norm), factor))
                if self.skips >= MOST_SKIPS:
                    raise UserError(_diverged(self.history[-1], self.step))
                due = self._due(self.every.save) and not self.skips  # keep what may be the last good ones
                stopped = max(self.learner.ranks.collect(interrupt.signal or 0))
                if due or done or stopped:
                    with clock.aside("save"):
                        self._save(metrics)
                if stopped:
                    return stopped
                if done or self.learner.ranks.rank:
                    continue
                if self._due(self.every.evaluate):
                    with clock.aside("evaluate"):
                        self._evaluate(metrics, lambda: interrupt.signal is not None)
                if self._due(self.every.sample) and self.hooks.sample is not None:
                    with clock.aside("sample"):
                        self.hooks.on_sample(self.step, self.hooks.sample())
        return None

    def stream(self) -> Iterator[Batch]:
        """The batches of the steps to come."""
        batches = self.batches
        if isinstance(batches, StatefulBatches):
            return (batches.next(self.learner.models) for _ in itertools.count())
        return prefetch(batches.batch, self.step)

    def fit_to_budget(self, step_seconds: float, closing: float) -> None:
        """Fit the step count to what is left of the budget; `closing` seconds are kept for the command's end."""
        assert self.plan.budget is not None
        self.closing = closing
        elapsed = self.learner.ranks.agree(time.monotonic() - self.started)
        self.plan.steps = self.step + max(0, int((self.plan.budget - elapsed - closing) / step_seconds))
        self.plan.events.append((self.step, self.plan.steps, round(elapsed, 1)))

    def _open_metrics(self) -> IO[bytes]:
        return io.BytesIO() if self.learner.ranks.rank else open(self.metrics, "ab")

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _row(self, clock: "_Clock", loss: float, norm: float, factor: float) -> Row:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "loss": loss,
            "seconds": round(time.monotonic() - self.started, 3),
            "learning_rate": self.learner.learning_rate * factor,
            "gradient_norm": norm,
            "tokens_per_second": round(clock.lap(self.tokens), 1),
            "steps": self.plan.steps,
        }

    def _log(self, metrics: IO[bytes], row: Row) -> None:
        self.check()
        metrics.write(json.dumps({name: _json_safe(value) for name, value in row.items()}).encode() + b"\n")
        metrics.flush()
        self.hooks.on_row(row)

    def _event(self, kind: str, **detail: Any) -> None:
        event = {
            "step": self.step,
            "event": kind,
            **{k: v if _json_safe(v) is not None else str(v) for k, v in detail.items()},
        }
        self.history.append(event)
        self.hooks.on_event(event)

    def _save(self, metrics: IO[bytes]) -> None:
        self.check()
        progress = Progress(
            step=self.step,
            tokens=self.tokens,
            seconds=time.monotonic() - self.started,
            metrics_offset=metrics.tell(),
            steps=self.plan.steps,
            plan=list(self.plan.events),
            loader=self.batches.record(),
            history=self.history,
            skips=self.skips,
        )
        self.checkpoints.save(self.learner, self.batches, progress)

    def _evaluate(self, metrics: IO[bytes], stopped: Callable[[], bool]) -> None:
        self.learner.models.eval()
        with torch.no_grad():
            numbers = self.hooks.evaluate(stopped)
        if numbers:
            seconds = round(time.monotonic() - self.started, 3)
            self._log(metrics, {"step": self.step, "tokens": self.tokens, "seconds": seconds, **numbers})

    def _replan(self, clock: "_Clock") -> None:
        if self.plan.budget is None or self.step >= self.plan.steps:
            return
        measured = (time.monotonic() - self.started, clock.per_step(self.step), clock.end + self.closing)
        elapsed, per_step, reserve = self.learner.ranks.agree(measured)
        if self.plan.refit(self.step, elapsed, per_step, reserve):
            self._event("re-planned", steps=self.plan.steps, seconds=round(elapsed, 1))


class _Clock:
    """Where the time of a loop goes: training steps, and what happens beside them."""

    def __init__(self, step: int, tokens: int):
        self.began = self.lapped = time.monotonic()
        self.step, self.tokens = step, tokens
        self.latest: dict[str, float] = {}

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

    def per_step(self, step: int) -> float:
        """Seconds a step so far, everything beside it spread over the steps."""
        return (time.monotonic() - self.began) / max(1, step - self.step)

    @property
    def end(self) -> float:
        """Seconds of the last save and evaluation that the end of the loop still brings."""
        return self.latest.get("save", 0.0) + self.latest.get("evaluate", 0.0)


def _json_safe(value: Any) -> Any:
    """JSON has no word for NaN and infinity: null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _diverged(event: Row, step: int) -> str:
    return (
        f"training came apart: {MOST_SKIPS} steps in a row up to step {step} had a loss or gradient that is not finite "
        f"(samples {event['samples'][:4]}), so the weights no longer change; begin again in another folder with a "
        "lower --learning-rate"
    )
