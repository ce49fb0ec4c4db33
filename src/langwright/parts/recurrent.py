"""Recurrent layers: Elman's (1990), the gated recurrent unit (Cho et al., 2014), long short-term memory (Hochreiter and
Schmidhuber, 1997), with the kernels of PyTorch."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.parts.attention import Context
from langwright.parts.carry import Carry, read_texts
from langwright.parts.linear import Linear, cast

Cell = Literal["lstm", "gru", "rnn"]
GATES: dict[Cell, int] = {"lstm": 4, "gru": 3, "rnn": 1}
"""Rows of a weight for each unit, in the order of `torch.nn`: i, f, g, o of an LSTM; r, z, n of a GRU."""


class Bidirectional(nn.Module):
    """Two layers over the same text, from left to right and from right to left, side by side (Schuster and Paliwal,
    1997); arguments as for `Recurrent`, `outputs` being the width of both together.
    """

    def __init__(self, inputs: int, outputs: int, cell: Cell, dropout: float = 0.0):
        super().__init__()
        self.ahead = Recurrent(inputs, outputs // 2, cell, dropout)
        self.behind = Recurrent(inputs, outputs // 2, cell, dropout)

    def forward(self, x: Float[Tensor, "batch time inputs"], context: Context) -> Float[Tensor, "batch time outputs"]:
        real, segments = (None if there is None else there.flip(1) for there in (context.real, context.segments))
        behind = self.behind(x.flip(1), context._replace(real=real, segments=segments)).flip(1)
        return torch.cat((self.ahead(x, context), behind), -1)


class Recurrent(nn.Module):
    """One layer in one direction, equal to `torch.nn.LSTM`, `torch.nn.GRU` or `torch.nn.RNN` (tanh).

    Its memory [batch, parts, outputs] is h, and for an LSTM also c. The weights keep their own dtype.

    Args:
        inputs: width of what it reads.
        outputs: width of h.
        cell: which one.
        dropout: on what the layer gives, in training only; never on what it carries from token to token (Zaremba et
            al., 2014).
        weight_dropout: on the hidden-to-hidden weight, in training only, drawn once a pass (Merity et al., 2018).
    """

    def __init__(self, inputs: int, outputs: int, cell: Cell, dropout: float = 0.0, weight_dropout: float = 0.0):
        super().__init__()
        self.outputs, self.cell = outputs, cell
        self.dropout, self.weight_dropout = dropout, weight_dropout
        rows = GATES[cell] * outputs
        self.input = Linear(inputs, rows, bias=True)
        self.hidden_weight = nn.Parameter(torch.empty(rows, outputs))
        self.hidden_bias = nn.Parameter(torch.empty(rows))

    def new_slot(self) -> Carry:
        """What the layer keeps between calls."""
        return Carry()

    def forward(self, x: Float[Tensor, "batch time inputs"], context: Context) -> Float[Tensor, "batch time outputs"]:
        hidden_weight, hidden_bias = cast(self.hidden_weight, x), cast(self.hidden_bias, x)
        if self.training and self.weight_dropout:
            hidden_weight = F.dropout(hidden_weight, self.weight_dropout)
        if type(self.input) is Linear and self.input.adapter is None:
            weight, bias = cast(self.input.weight, x), cast(self.input.bias, x)  # type: ignore[arg-type]
        else:  # quantised or adapted: computed before, and handed to the kernel as it is
            x = self.input(x)
            weight, bias = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), torch.zeros_like(hidden_bias)
        weights = [weight, hidden_weight, bias, hidden_bias]

        def step(piece: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
            parts = [part.contiguous()[None] for part in memory.unbind(1)]
            options = True, 1, 0.0, self.training, False, True  # biases, layers, dropout, training, both ways, by rows
            if self.cell == "lstm":
                y, h, c = torch.lstm(piece, parts, weights, *options)
                return y, torch.stack((h[0], c[0]), 1)
            run = torch.gru if self.cell == "gru" else torch.rnn_tanh
            y, h = run(piece, parts[0], weights, *options)
            return y, h.transpose(0, 1)

        y = read_texts(x, context, x.new_zeros(len(x), 1 + (self.cell == "lstm"), self.outputs), step)
        return F.dropout(y, self.dropout) if self.training and self.dropout else y
