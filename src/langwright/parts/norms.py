"""Normalisation over the last dimension."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Norm(nn.Module):
    """LayerNorm (Ba et al., 2016) or RMSNorm (Zhang and Sennrich, 2019).

    kind: "layer" subtracts the mean and divides by the standard deviation; "rms" divides by the root mean square.
    eps: added to the variance (or mean square) before the root.
    weight, bias: whether there is a learned scale and shift.
    """

    def __init__(self, dim: int, kind: Literal["layer", "rms"], eps: float, weight: bool = True, bias: bool = False):
        super().__init__()
        self.kind = kind
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim)) if weight else None
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        if self.kind == "layer":
            return F.layer_norm(x, x.shape[-1:], weight, None if self.bias is None else self.bias.to(x.dtype), self.eps)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)
        return normed if weight is None else normed * weight
