"""AdamW (Loshchilov and Hutter, 2019) with a small memory: averages in 8 bits, or outside the device, or both."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from langwright.parts.quantisers import dequantise_blocks, quantise_blocks

SMALLEST = 4096
"""Parameters of fewer numbers keep their averages in 32 bits: they cost nothing, and norms and biases are delicate."""
SIGNED = {"exp_avg": True, "exp_avg_sq": False}
"""The averages of gradients and of their squares, which have no sign."""


class LeanAdamW(torch.optim.AdamW):
    """AdamW whose averages are kept small between steps.

    Parameters are changed one after the other, so that one at a time has averages in full.

    Args:
        parameters: those to change, or groups of them.
        bits: 8 keeps averages as codes of the dynamic map in blocks of 256 (Dettmers et al., 2022), a quarter of the
            memory; 32 as they are.
        host: they lie in the memory of the machine and visit the device of their parameter for a step.
        settings: as of PyTorch's.
    """

    def __init__(self, parameters: Any, bits: int = 8, host: bool = False, **settings: Any):
        super().__init__(parameters, **settings)
        self.bits, self.host = bits, host

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change the parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad.float(), group)

    def _step_one(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state: dict[str, Tensor] = self.state[parameter]
        step = state.get("step", torch.zeros(())) + 1
        mean, square = (self._recall(state, name, gradient) for name in SIGNED)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        count = float(step)
        root = (square / (1 - beta2**count)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**count))
        state["step"] = step
        for name, value in zip(SIGNED, (mean, square), strict=True):
            self._remember(state, name, value)

    def _recall(self, state: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
        """An average in float32 on the device of its parameter; zeros at first."""
        if name in state:
            return state[name].to(like.device, copy=self.host)
        if f"{name}_codes" in state:
            codes, absmax = (state[f"{name}_{part}"].to(like.device) for part in ("codes", "absmax"))
            return dequantise_blocks(codes, absmax, SIGNED[name])
        return torch.zeros_like(like)

    def _remember(self, state: dict[str, Tensor], name: str, value: Tensor) -> None:
        home = torch.device("cpu") if self.host else value.device
        if self.bits == 8 and value.numel() >= SMALLEST:
            codes, absmax = quantise_blocks(value, SIGNED[name])
            state[f"{name}_codes"], state[f"{name}_absmax"] = codes.to(home), absmax.to(home)
        else:
            state[name] = value.to(home)
