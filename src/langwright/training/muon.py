"""Muon (Jordan et al., 2024): momentum whose matrix is replaced by the nearest orthogonal one."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that pushes singular values towards 1: steep at 0, and anywhere in about 0.7 to 1.2 at the end."""

MOMENTUM = (0.85, 0.95)
MOMENTUM_STEPS = 100
"""The momentum rises from the first to the second value over so many steps."""


def orthogonalise(matrices: Tensor) -> Tensor:
    """For each G = U S Vᵀ of [count, rows, columns], about U Vᵀ, by five Newton-Schulz iterations in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For hidden matrices: w -= lr * sqrt(max(1, rows / columns)) * orthogonalise(nesterov momentum).

    weight_decay: decoupled, as in AdamW. Matrices of one shape are orthogonalised together.
    """

    def __init__(self, parameters: Any, lr: float = 0.02, weight_decay: float = 0.1):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change the matrices."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for parameters in alike.values():
                self._step_together(parameters, group)

    def _step_together(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """One step of matrices of the same shape."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        states: list[dict[str, Tensor]] = [self.state[p] for p in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state.update(step=torch.zeros((), device=parameter.device), momentum=torch.zeros_like(parameter))
        done = min(1.0, float(states[0]["step"]) / MOMENTUM_STEPS)
        momentum = MOMENTUM[0] + done * (MOMENTUM[1] - MOMENTUM[0])
        buffers = [state["momentum"] for state in states]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        looked_ahead = torch._foreach_lerp(gradients, buffers, momentum)
        updates = orthogonalise(torch.stack(looked_ahead)).unbind()
        rows, columns = parameters[0].shape
        if group["weight_decay"]:
            torch._foreach_mul_([*parameters], 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_([*parameters], updates, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
        for state in states:
            state["step"] += 1
