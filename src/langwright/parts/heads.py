"""From hidden states to what is asked of them: logits of tokens or labels, or one vector a text.

`mask` [batch, time] is true where a token is real; None means all are. Heads that answer for every token pass it over.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from langwright.parts.feedforward import ACTIVATIONS
from langwright.parts.linear import Linear, affine
from langwright.parts.norms import Norm

Pooling = Literal["first", "last", "mean", "max"]
Hidden = Float[Tensor, "*batch dim"]
Logits = Float[Tensor, "*batch vocabulary"]
Mask = Bool[Tensor, "batch time"]


@dataclass(frozen=True)
class Projection:
    """Logits that are not computed yet: softcap(scale * hidden Wᵀ + bias + offset).

    It holds every piece that logits are made of, so that a loss that never holds all logits cannot forget one
    (`objectives.losses.linear_cross_entropy`).

    Args:
        hidden: the vectors that are multiplied, [*batch, width].
        weight: W, [vocabulary, width].
        bias: added to the logits, [vocabulary]; None for none.
        scale: multiplies `hidden`.
        offset: also added to the logits, and never trained, [vocabulary]; None for none.
        softcap: the logits are squeezed into (-softcap, softcap) by softcap * tanh(logits / softcap); None leaves them.
    """

    hidden: Float[Tensor, "*batch width"]
    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None = None
    scale: float = 1.0
    offset: Float[Tensor, " vocabulary"] | None = None
    softcap: float | None = None


class LanguageHead(nn.Module):
    """logits = softcap(scale * hidden Wᵀ + bias + offset); see `Projection`.

    Args:
        vocabulary: number of logits.
        dim: width of the hidden states.
        tied: the token table, where it is W (Press and Wolf, 2017).
        softcap: bound of the logits (Gemma 2); None for none.
        scale: multiplies the hidden states (T5).
        bias: whether a bias is trained.
        offset: whether there is an offset, which training leaves as it is (BART).

    `adapter` is None, or a module that computes the logits before the offset in place of `plain`.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        tied: nn.Parameter | None = None,
        softcap: float | None = None,
        scale: float = 1.0,
        bias: bool = False,
        offset: bool = False,
    ):
        super().__init__()
        self.scale = scale
        self.offset = nn.Parameter(torch.empty(1, vocabulary), requires_grad=False) if offset else None
        self.weight = nn.Parameter(torch.empty(vocabulary, dim)) if tied is None else tied
        self.bias = nn.Parameter(torch.empty(vocabulary)) if bias else None
        self.softcap = softcap
        self.adapter: nn.Module | None = None

    def forward(self, hidden: Hidden, mask: Mask | None = None) -> Logits:
        scaled = hidden if self.scale == 1 else hidden * self.scale
        logits = self.plain(scaled) if self.adapter is None else self.adapter(scaled, self)
        if self.offset is not None:
            logits = logits + self.offset[0].to(logits.dtype)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def plain(self, hidden: Hidden) -> Logits:
        """hidden Wᵀ + bias, without an adapter."""
        return affine(hidden, self.weight, self.bias)

    def full_weight(self) -> Float[Tensor, "vocabulary dim"]:
        """W as one matrix of floats."""
        return self.weight

    def projection(self, hidden: Hidden) -> Projection:
        """All that the logits of these hidden states are made of, adapters included."""
        offset = None if self.offset is None else self.offset[0]
        plain = Projection(hidden, self.full_weight(), self.bias, self.scale, offset, self.softcap)
        if self.adapter is None:
            return plain
        adapted: Projection = self.adapter.projection(plain, self)  # type: ignore[operator]
        return adapted


class MaskedHead(nn.Module):
    """Logits of the token that a mask hides: norm(activation(dense(hidden))) Wᵀ + b (BERT, Devlin et al., 2018).

    tied: W, the token table.
    """

    def __init__(self, dim: int, activation: str, norm: Norm, tied: nn.Parameter):
        super().__init__()
        self.dense = Linear(dim, dim, bias=True)
        self.activation = ACTIVATIONS[activation]
        self.norm = norm
        self.weight = tied
        self.bias = nn.Parameter(torch.empty(tied.shape[0]))

    def forward(self, hidden: Hidden, mask: Mask | None = None) -> Logits:
        read = self.projection(hidden)
        return affine(read.hidden, read.weight, read.bias)

    def projection(self, hidden: Hidden) -> Projection:
        """All that the logits of these hidden states are made of."""
        return Projection(self.norm(self.activation(self.dense(hidden))), self.weight, self.bias)


class LabelHead(nn.Module):
    """Logits of labels, of a whole text or of every token. With two labels, where an answer begins and ends, for spans.

    Args:
        dim: width of the hidden states.
        labels: how many there are.
        pooling: which hidden state stands for a text: "first" ([CLS] of BERT) or "last" (of a causal model, where no
            earlier one has seen it all); None for every token's.
        dense: whether a layer with tanh comes first, such as BERT's pooler.
        bias: of the last layer.
        dropout: before the last layer.
        input_dropout: before the dense layer.
    """

    def __init__(
        self,
        dim: int,
        labels: int,
        pooling: Pooling | None = "first",
        dense: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ):
        super().__init__()
        self.pooling = pooling
        self.dense = Linear(dim, dim, bias=True) if dense else None
        self.output = Linear(dim, labels, bias)
        self.dropout, self.input_dropout = dropout, input_dropout

    def forward(self, hidden: Hidden, mask: Mask | None = None) -> Float[Tensor, "*rows labels"]:
        x = hidden if self.pooling is None else pool(hidden, mask, self.pooling)
        x = F.dropout(x, self.input_dropout, self.training)
        if self.dense is not None:
            x = torch.tanh(self.dense(x))
        return self.output(F.dropout(x, self.dropout, self.training))


class EmbeddingHead(nn.Module):
    """One vector a text (Reimers and Gurevych, 2019). normalise: to length 1, so that products are cosines."""

    def __init__(self, pooling: Pooling = "mean", normalise: bool = True):
        super().__init__()
        self.pooling = pooling
        self.normalise = normalise

    def forward(self, hidden: Hidden, mask: Mask | None = None) -> Float[Tensor, "batch dim"]:
        x = pool(hidden, mask, self.pooling)
        return F.normalize(x, dim=-1) if self.normalise else x


def pool(hidden: Hidden, mask: Mask | None, pooling: Pooling) -> Float[Tensor, "batch dim"]:
    """One vector a row out of those of its real tokens: the first, the last, their mean, or their largest numbers."""
    real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask
    if pooling == "mean":
        weights = real.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    if pooling == "max":
        return hidden.masked_fill(~real.unsqueeze(-1), torch.finfo(hidden.dtype).min).amax(1)
    counted = real.long().cumsum(1)
    wanted = counted == (1 if pooling == "first" else counted[:, -1:])
    at = wanted.long().argmax(1)  # the first slot that has counted so many
    return hidden[torch.arange(len(hidden), device=hidden.device), at]
