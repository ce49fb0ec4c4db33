"""From hidden states to logits."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LanguageHead(nn.Module):
    """logits = hidden Wᵀ + b. W is the token table itself when tied (Press and Wolf, 2017).

    softcap: logits are squeezed into (-softcap, softcap) by softcap * tanh(logits / softcap); None leaves them.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        tied: nn.Parameter | None = None,
        softcap: float | None = None,
        bias: bool = False,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, dim)) if tied is None else tied
        self.bias = nn.Parameter(torch.empty(vocabulary)) if bias else None
        self.softcap = softcap

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocabulary"]:
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        logits = F.linear(hidden, self.weight.to(hidden.dtype), bias)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
