"""From hidden states to logits."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LanguageHead(nn.Module):
    """logits = hidden Wᵀ. W is the token table itself when tied (Press and Wolf, 2017)."""

    def __init__(self, vocabulary: int, dim: int, tied: nn.Parameter | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, dim)) if tied is None else tied

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocabulary"]:
        return F.linear(hidden, self.weight.to(hidden.dtype))
