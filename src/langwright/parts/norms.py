"""Normalisation: over the numbers of one place (layer, root mean square), or over the places of a batch."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from langwright.parts.linear import cast


class Norm(nn.Module):
    """LayerNorm (Ba et al., 2016) or RMSNorm (Zhang and Sennrich, 2019).

    Args:
        dim: how many numbers are normalised together.
        kind: "layer" subtracts the mean and divides by the standard deviation; "rms" divides by the root mean square.
        eps: added to the variance (or mean square) before the root.
        weight, bias: whether there is a learned scale and shift.
        plus_one: the scale is 1 + weight, multiplied before the result is rounded (Gemma).
    """

    def __init__(
        self,
        dim: int,
        kind: Literal["layer", "rms"],
        eps: float,
        weight: bool = True,
        bias: bool = False,
        plus_one: bool = False,
    ):
        super().__init__()
        self.plus_one = plus_one
        self.kind = kind
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim)) if weight else None
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        weight = self.weight
        if self.kind == "layer":
            bias = None if self.bias is None else cast(self.bias, x)
            return F.layer_norm(x, x.shape[-1:], None if weight is None else cast(weight, x), bias, self.eps)
        if self.plus_one and weight is not None:
            wide = _wide(x)
            return (_rms(x.to(wide), self.eps) * (1 + weight.to(wide))).to(x.dtype)
        normed = _rms(x, self.eps)
        return normed if weight is None else normed * cast(weight, x)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015): each of `dim` numbers by its own statistics over a batch.

    In training these are mean and variance over all places of the batch, which also pull running ones along; in
    evaluation the running ones. momentum: the share of the newest batch in them. Weight and bias begin at 1 and 0.
    Language models do without: what a text becomes would depend on the texts beside it.
    """

    mean: Float[Tensor, " dim"]
    variance: Float[Tensor, " dim"]

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(
        self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch dim"]:
        """mask: true for the places that count; None means all do. Raises ValueError where fewer than two do."""
        wide = x.to(_wide(x))
        mean, variance = self._of_batch(wide, mask) if self.training else (self.mean, self.variance)
        normed = (wide - mean) * torch.rsqrt(variance + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)

    def _of_batch(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        counted = x.flatten(0, -2) if mask is None else x[mask]
        if len(counted) < 2:
            raise ValueError(f"{len(counted)} places have no variance: batch normalisation needs two at least")
        variance, mean = torch.var_mean(counted, 0, correction=0)
        with torch.no_grad():
            unbiased = variance * (len(counted) / (len(counted) - 1))
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
            self.variance.lerp_(unbiased.to(self.variance.dtype), self.momentum)
        return mean, variance


def _rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps), in float32 at least, rounded once at the end."""
    if torch.compiler.is_compiling():
        wide = x.to(_wide(x))
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    if x.requires_grad:
        return _RootMeanSquare.apply(x, eps)  # type: ignore[no-untyped-call]
    return _normed(x, eps)[0]


def _normed(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The same with half of the passes over memory, and 1 / sqrt(mean(x²) + eps)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_wide(x))
    scale = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps))
    return torch.mul(x, scale, out=torch.empty_like(x)), scale


class _RootMeanSquare(torch.autograd.Function):
    """The same with a gradient of its own: a third of the time of the composed operations, when not compiled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(x, eps)
        ctx.save_for_backward(normed, scale.to(x.dtype))
        return normed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        normed, scale = ctx.saved_tensors
        along = (upstream[0] * normed).mean(-1, keepdim=True, dtype=_wide(normed)).to(normed.dtype)
        return torch.addcmul(upstream[0], normed, along, value=-1).mul_(scale), None


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
