"""The feed-forward slot of a block."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.parts.attention import Context
from langwright.parts.linear import Linear, together

Activation = Callable[[Tensor], Tensor]

GELU_SLOPE = 2 * math.sqrt(2 / math.pi)


def gelu_tanh(x: Tensor) -> Tensor:
    """x * (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (x + 0.044715 x³), as in the code of GPT-2.

    For the compiler it is written x * sigmoid(2u), which is the same and compiles to a third of the time.
    """
    if torch.compiler.is_compiling():
        return x * torch.sigmoid(x * (GELU_SLOPE + GELU_SLOPE * 0.044715 * x * x))
    return F.gelu(x, approximate="tanh")


class _SquaredRelu(torch.autograd.Function):
    """relu(x)² with a gradient of its own: half of the passes over memory of the composed operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (upstream[0] * positive).mul_(2)


def relu2(x: Tensor) -> Tensor:
    """relu(x)² (Primer, So et al., 2021)."""
    if x.requires_grad and not torch.compiler.is_compiling():
        return _SquaredRelu.apply(x)  # type: ignore[no-untyped-call]
    return F.relu(x).square()


ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "relu2": relu2,
    "silu": F.silu,
}
"""gelu is the exact one (erf); gelu_tanh is the approximation of the GPT-2 code; relu2 is the squared one
(Primer, So et al., 2021)."""


class MLP(nn.Module):
    """output(dropout(activation(input(x)))), the two-layer feed-forward of the original Transformer."""

    def __init__(self, dim: int, hidden: int, activation: str, bias: bool = False, dropout: float = 0.0):
        super().__init__()
        self.input = Linear(dim, hidden, bias)
        self.output = Linear(hidden, dim, bias)
        self.activation = ACTIVATIONS[activation]
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        hidden = self.activation(self.input(x))
        return self.output(F.dropout(hidden, self.dropout) if self.training and self.dropout else hidden)


class GLU(nn.Module):
    """output(dropout(activation(gate(x)) * input(x))), the gated feed-forward (Shazeer, 2020); SwiGLU with "silu"."""

    def __init__(self, dim: int, hidden: int, activation: str, bias: bool = False, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.gate = Linear(dim, hidden, bias)
        self.input = Linear(dim, hidden, bias)
        self.output = Linear(hidden, dim, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        gate, given = together(x, self.gate, self.input)
        hidden = self.activation(gate) * given
        return self.output(F.dropout(hidden, self.dropout) if self.training and self.dropout else hidden)
