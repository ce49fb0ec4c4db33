"""Where a training step spends its time, by part of the model and of the loop."""

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

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


class Profile:
    """Measures some steps of a run, after others to warm up; fewer of both in a short one.

    Time on a CPU is that of its operations; on a GPU that of the kernels, each counted for the operation that launched
    it. What no operation accounts for (Python, waiting) is everything else.

    Args:
        model: whose forward passes are marked.
        steps: how many steps of training are to come.
        compiled: the model's blocks are, and are left alone.
        measured: how many steps are measured.
        warm_up: how many come before.
    """

    def __init__(self, model: nn.Module, steps: int, compiled: bool = False, measured: int = 5, warm_up: int = 10):
        self._warm_up = min(warm_up, steps // 2)
        self._last = min(steps, self._warm_up + measured)
        self._seen, self._seconds = 0, 0.0
        hidden = {id(module) for module in model.body.blocks.modules()} if compiled else set()  # type: ignore[union-attr]
        self._hooks = [hook for m in model.modules() if id(m) not in hidden for hook in _mark(m)]
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write to stderr
        self._profiler = torch.profiler.profile()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step of the loop: measure it if its turn has come."""
        self._seen += 1
        if not self._warm_up < self._seen <= self._last:
            yield
            return
        if self._seen == self._warm_up + 1:
            self._profiler.start()
        began = time.perf_counter()
        with part("step"):
            yield
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        self._seconds += time.perf_counter() - began
        if self._seen == self._last:
            self._profiler.stop()

    def record(self) -> dict[str, Any]:
        """Let go of the model, and say what was measured: steps, seconds of each, and the share of every part.

        The run may have ended before its time; nothing is said where no step was measured.
        """
        for hook in self._hooks:
            hook.remove()
        measured = min(self._seen, self._last) - self._warm_up
        if measured < 1:
            return {}
        if self._seen < self._last:
            self._profiler.stop()
        found = shares(self._profiler.events() or [], self._seconds)
        return {"steps": measured, "seconds_per_step": self._seconds / measured, "shares": found}


def shares(events: Iterable[Any], seconds: float) -> dict[str, float]:
    """The share of each part in `seconds`, from the events of torch.profiler. Parts without any are left out.

    The operations of the backward pass count for the part whose forward operation has the same sequence number.
    """
    events = sorted(events, key=lambda event: event.time_range.start)
    windows = [(e.time_range.start, e.time_range.end) for e in events if e.name == MARK + "step"]
    inside = [e for e in events if any(begin <= e.time_range.start <= end for begin, end in windows)]
    forward: dict[int, str | None] = {}
    for event in inside:
        if event.sequence_nr >= 0 and not any(around.name.startswith(BACKWARD) for around in _ancestry(event)):
            forward[event.sequence_nr] = _part(event, {})  # the last one made the node: those before only looked ahead
    spent: dict[str, float] = defaultdict(float)
    on_device = any(event.self_device_time_total for event in inside)
    for event in inside:
        if name := _part(event, forward):
            spent[name] += (event.self_device_time_total if on_device else event.self_cpu_time_total) / 1e6
    spent["everything else"] = max(0.0, seconds - sum(spent.values()))
    return {part: spent[part] / seconds for part in PARTS if spent[part]}


def _part(event: Any, forward: dict[int, str | None]) -> str | None:
    """The part that an operation belongs to: the innermost that is marked around it."""
    for around in _ancestry(event):
        name = around.name.removeprefix(BACKWARD)
        if name.startswith(MARK):
            return None if name == MARK + "step" else name.removeprefix(MARK)
        if found := [part_ for operation, part_ in OPERATIONS.items() if name.startswith(operation)]:
            return found[0]
        if name.startswith(COMPILED):
            return "products" if event.name in PRODUCTS else "compiled kernels"
        if around.name.startswith(BACKWARD) and around.sequence_nr in forward:
            return forward[around.sequence_nr]
    return None


def _ancestry(event: Any) -> Iterator[Any]:
    """An event and those around it, inside out."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _mark(module: nn.Module) -> list[Any]:
    """Hooks that mark a module's forward pass."""
    name = next((name for kind, name in MODULES.items() if isinstance(module, kind)), None)
    if name is None:
        return []
    mark = ExitStack()

    def enter(*_: Any) -> None:
        mark.enter_context(part(name))

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(lambda *_: mark.close())]
