"""Where a training step spends its time, by part of the model and of the loop."""

import itertools
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from langwright.objectives.batch import Batch
from langwright.parts.attention import Attention
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm
from langwright.training.loop import Run

PARTS = ("products", "attention", "norms", "compiled kernels", "loss", "optimizer", "loader", "everything else")
"""products: of the linear layers. attention: what is left of it. loss: the head's products included. compiled kernels:
what torch.compile fused, products and attention left out. optimizer: with clipping, masters and Muon's products."""

MODULES: dict[type[nn.Module], str] = {Linear: "products", Attention: "attention", Norm: "norms"}
OPERATIONS = {"_LinearCrossEntropy": "loss", "langwright::causal_attention": "attention"}
PRODUCTS = frozenset(["aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"])
COMPILED = ("Torch-Compiled Region", "CompiledFunction", "## Call CompiledFxGraph")
BACKWARD = "autograd::engine::evaluate_function: "
MARK = "part: "


@dataclass
class Profile:
    """Measures `steps` steps of a run, after `warm_up` others; `shares` holds the result once the run is over.

    Time on a CPU is that of its operations; on a GPU that of the kernels, each counted for the operation that launched
    it. What no operation accounts for (Python, waiting) is everything else.
    """

    steps: int = 5
    warm_up: int = 10
    seconds: float = 0.0
    measured: int = 0
    shares: dict[str, float] = field(default_factory=dict)

    def watch(self, run: Run, compiled: bool = False) -> None:
        """Attach to a run that is about to begin. compiled: its blocks are, and are left alone."""
        left = run.plan.steps - run.step
        self.warm_up = min(self.warm_up, left // 2)
        self.steps = min(self.steps, left - self.warm_up)
        body = run.learner.model.body
        hidden = {id(module) for module in body.blocks.modules()} if compiled else set()  # type: ignore[union-attr]
        self._hooks = [hook for m in run.learner.model.modules() if id(m) not in hidden for hook in _mark(m)]
        self._began: float | None = None
        self._profiler: torch.profiler.profile | None = None
        self._watching = True
        learner, batches = run.learner, run.batches
        clip, step, gather = learner.clip, learner.step, learner.masters.gather

        def last(factor: float) -> None:
            with record_function(MARK + "optimizer"):
                step(factor)
            self._close()

        run.batches = lambda start: self._batches(batches(start))
        learner.clip = _marked("optimizer", clip)  # type: ignore[method-assign]
        learner.step = last  # type: ignore[method-assign]
        learner.masters.gather = _marked("optimizer", gather)  # type: ignore[method-assign]

    def record(self) -> dict[str, Any]:
        """For the record of the run: steps measured, seconds of each, and the share of every part."""
        return {"steps": self.measured, "seconds_per_step": self.seconds, "shares": self.shares}

    def _batches(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        for number in itertools.count():
            self._close()
            if number == self.warm_up and self._watching:
                os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write to stderr
                self._profiler = torch.profiler.profile()
                self._profiler.start()
            if self.warm_up <= number and self._watching:
                self._window = record_function(MARK + "step")
                self._window.__enter__()
                self._began = time.perf_counter()
            with record_function(MARK + "loader"):
                batch = next(stream, None)
            if batch is None:
                return
            yield batch

    def _close(self) -> None:
        """The end of a step; after the last one the shares are counted."""
        if self._began is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._began
        self.measured, self._began = self.measured + 1, None
        self._window.__exit__(None, None, None)
        if self.measured == self.steps:
            self.finish()

    def finish(self) -> None:
        """Count what was measured and let go of the run, which may have ended before its time."""
        if not self._watching:
            return
        self._watching = False
        self._close()
        for hook in self._hooks:
            hook.remove()
        if self._profiler is not None:
            self._profiler.stop()
        if self._profiler is not None and self.measured:
            self.shares = shares(self._profiler.events() or [], self.seconds)
            self.seconds /= self.measured


def shares(events: Iterable[Any], seconds: float) -> dict[str, float]:
    """The share of each part in `seconds`, from the events of torch.profiler. Parts without any are left out.

    The operations of the backward pass count for the part whose forward operation has the same sequence number.
    """
    events = sorted(events, key=lambda event: event.time_range.start)
    windows = [(e.time_range.start, e.time_range.end) for e in events if e.name == MARK + "step"]
    inside = [e for e in events if any(begin <= e.time_range.start <= end for begin, end in windows)]
    forward: dict[int, str | None] = {}
    for event in inside:
        if event.sequence_nr >= 0 and not any(name.startswith(BACKWARD) for name, _ in _ancestry(event)):
            forward[event.sequence_nr] = _part(event, {})  # the last one made the node: those before only looked ahead
    spent: dict[str, float] = defaultdict(float)
    on_device = any(event.self_device_time_total for event in inside)
    for event in inside:
        own = event.self_device_time_total if on_device else event.self_cpu_time_total
        spent[_part(event, forward) or "everything else"] += own / 1e6
    spent["everything else"] = max(0.0, seconds - sum(v for k, v in spent.items() if k != "everything else"))
    return {part: spent[part] / seconds for part in PARTS if spent[part]}


def _part(event: Any, forward: dict[int, str | None]) -> str | None:
    """The part that an operation belongs to: the innermost that is marked around it."""
    compiled = False
    for name, sequence in _ancestry(event):
        if name.startswith(MARK):
            part = name.removeprefix(MARK)
            return "compiled kernels" if compiled and part == "step" else None if part == "step" else part
        for operation, part in OPERATIONS.items():
            if name.removeprefix(BACKWARD).startswith(operation):
                return part
        compiled |= name.removeprefix(BACKWARD).startswith(COMPILED)
        if compiled:
            return "products" if event.name in PRODUCTS else "compiled kernels"
        if name.startswith(BACKWARD) and sequence in forward:
            return forward[sequence]
    return None


def _ancestry(event: Any) -> Iterator[tuple[str, int]]:
    """Names and sequence numbers of an event and of those around it, inside out."""
    while event is not None:
        yield event.name, event.sequence_nr
        event = event.cpu_parent


def _mark(module: nn.Module) -> list[Any]:
    """Hooks that mark a module's forward pass."""
    part = next((part for kind, part in MODULES.items() if isinstance(module, kind)), None)
    if part is None:
        return []
    open_marks: list[record_function] = []

    def enter(*_: Any) -> None:
        open_marks.append(record_function(MARK + part))
        open_marks[-1].__enter__()

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def _marked(part: str, function: Any) -> Any:
    def call(*arguments: Any) -> Any:
        with record_function(MARK + part):
            return function(*arguments)

    return call
