"""Where a training step spends its time, by part of the model and of the loop."""

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from langwright.parts.attention import Attention
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm
from langwright.training.learner import MARK, part

PARTS = ("products", "attention", "norms", "compiled kernels", "loss", "optimizer", "loader", "everything else")
"""products: of the linear layers. attention: what is left of it. loss: the head's products included. compiled kernels:
what torch.compile fused, products and attention left out. optimizer: with clipping, masters and Muon's products."""

MODULES: dict[type[nn.Module], str] = {Linear: "products", Attention: "attention", Norm: "norms"}
OPERATIONS = {"_LinearCrossEntropy": "loss", "langwright::causal_attention": "attention"}
PRODUCTS = frozenset(["aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"])
COMPILED = ("Torch-Compiled Region", "CompiledFunction", "## Call CompiledFxGraph")
BACKWARD = "autograd::engine::evaluate_function: "


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

    def watch(self, model: nn.Module, steps: int, compiled: bool = False) -> None:
        """Mark the modules of a model that is about to be trained for so many steps.

        Args:
            model: whose forward passes are marked.
            steps: how many are to come; fewer are measured where that is little.
            compiled: its blocks are, and are left alone.
        """
        self.warm_up = min(self.warm_up, steps // 2)
        self.steps = min(self.steps, steps - self.warm_up)
        hidden = {id(module) for module in model.body.blocks.modules()} if compiled else set()  # type: ignore[union-attr]
        self._hooks = [hook for m in model.modules() if id(m) not in hidden for hook in _mark(m)]
        self._seen = 0
        self._profiler: torch.profiler.profile | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step of the loop: measure it if its turn has come."""
        self._seen += 1
        if not self.warm_up < self._seen <= self.warm_up + self.steps:
            yield
            return
        if self._profiler is None:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write to stderr
            self._profiler = torch.profiler.profile()
            self._profiler.start()
        began = time.perf_counter()
        with part("step"):
            yield
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        self.seconds += time.perf_counter() - began
        self.measured += 1
        if self.measured == self.steps:
            self.finish()

    def record(self) -> dict[str, Any]:
        """For the record of the run: steps measured, seconds of each, and the share of every part."""
        return {"steps": self.measured, "seconds_per_step": self.seconds, "shares": self.shares}

    def finish(self) -> None:
        """Count what was measured and let go of the model; the run may have ended before its time."""
        for hook in self._hooks:
            hook.remove()
        if self._profiler is None:
            return
        self._profiler.stop()
        if self.measured:
            self.shares = shares(self._profiler.events() or [], self.seconds)
            self.seconds /= self.measured
        self._profiler = None


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
    name = next((name for kind, name in MODULES.items() if isinstance(module, kind)), None)
    if name is None:
        return []
    open_marks: list[record_function] = []

    def enter(*_: Any) -> None:
        open_marks.append(part(name))
        open_marks[-1].__enter__()

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
