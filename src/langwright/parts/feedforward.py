"""The feed-forward slot of a block."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.parts.attention import Context
from langwright.parts.linear import Linear

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
}
"""gelu is the exact one (erf); gelu_tanh is the approximation of the GPT-2 code; relu2 is the squared one
(Primer, So et al., 2021)."""


class MLP(nn.Module):
    """output(activation(input(x))), the two-layer feed-forward of the original Transformer."""

    def __init__(self, dim: int, hidden: int, activation: str, bias: bool = False):
        super().__init__()
        self.input = Linear(dim, hidden, bias)
        self.output = Linear(hidden, dim, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        return self.output(self.activation(self.input(x)))


class GLU(nn.Module):
    """output(activation(gate(x)) * input(x)), the gated feed-forward (Shazeer, 2020); SwiGLU with "silu"."""

    def __init__(self, dim: int, hidden: int, activation: str, bias: bool = False):
        super().__init__()
        self.gate = Linear(dim, hidden, bias)
        self.input = Linear(dim, hidden, bias)
        self.output = Linear(hidden, dim, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        return self.output(self.activation(self.gate(x)) * self.input(x))
