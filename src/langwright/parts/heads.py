"""From hidden states to logits."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LanguageHead(nn.Module):
    """logits = hidden Wᵀ. W is the token table itself when tied (Press and Wolf, 2017).

    softcap: logits are squeezed into (-softcap, softcap) by softcap * tanh(logits / softcap); None leaves them.
    scale: multiplies the hidden states first. offset: a number is added to each logit that training leaves as it is.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        tied: nn.Parameter | None = None,
        softcap: float | None = None,
        scale: float = 1.0,
        offset: bool = False,
    ):
        super().__init__()
        self.scale = scale
        self.offset = nn.Parameter(torch.empty(1, vocabulary), requires_grad=False) if offset else None
        self.weight = nn.Parameter(torch.empty(vocabulary, dim)) if tied is None else tied
        self.softcap = softcap

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocabulary"]:
        scaled = hidden if self.scale == 1 else hidden * self.scale
        logits = F.linear(scaled, self.weight.to(hidden.dtype))
        if self.offset is not None:
            logits = logits + self.offset[0].to(logits.dtype)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
