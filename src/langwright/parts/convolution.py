"""Causal convolutions over time."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.parts.attention import Context
from langwright.parts.carry import Carry, read_texts
from langwright.parts.linear import Linear


class CausalConvolution(nn.Module):
    """A gated convolution over a token and those before it: a * sigmoid(b), both linear (Dauphin et al., 2017).

    A convolution is a linear layer of neighbouring tokens. Its memory [batch, reach, dim] are the inputs before the
    next one that it will look at.

    Args:
        dim: width of the input and output.
        kernel: how many tokens one output reads.
        dilation: how far they stand apart (WaveNet, van den Oord et al., 2016).
    """

    def __init__(self, dim: int, kernel: int, dilation: int = 1):
        super().__init__()
        self.kernel, self.dilation, self.reach = kernel, dilation, (kernel - 1) * dilation
        self.input = Linear(kernel * dim, 2 * dim, bias=True)

    def new_slot(self) -> Carry:
        """What the layer keeps between calls."""
        return Carry()

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        return read_texts(x, context, x.new_zeros(len(x), self.reach, x.shape[2]), self._step)

    def _step(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        seen, time = torch.cat((memory, x), 1), x.shape[1]
        near = [seen[:, i * self.dilation : i * self.dilation + time] for i in range(self.kernel)]
        return F.glu(self.input(torch.cat(near, -1))), seen[:, time:]
