"""Linear layers whose weights keep their own dtype."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.parts import native

FEW = 16
"""Up to this many rows a product in bfloat16 on a CPU is that of few rows (measured)."""


def cast(parameter: Tensor, like: Tensor) -> Tensor:
    """A parameter in the dtype of `like`: where it has it already, in a tenth of the time of `Tensor.to`."""
    return parameter if parameter.dtype == like.dtype else parameter.to(like.dtype)


def wide(x: Tensor) -> torch.dtype:
    """What sums are kept in: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def affine(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """x Wᵀ + b in the dtype of x. A few rows, as when text is written token by token, are the native kernel's.

    Without it, it is (W xᵀ + b)ᵀ. oneDNN copies the right factor into an order of its own at every call. With few rows
    that copy of W takes as long as the product; xᵀ is soon copied, and so is the result, which would be slow to work on
    with its rows as columns.
    """
    weight, bias = cast(weight, x), None if bias is None else cast(bias, x)
    if torch.is_grad_enabled() or x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    if not 0 < rows <= FEW:
        return F.linear(x, weight, bias)
    kernels = native.library()
    fits = weight.shape[1] == x.shape[-1] and weight.device == x.device
    if kernels is not None and fits and weight.is_contiguous():
        one = native.factor("bfloat16", weight, len(weight), bias=bias)
        return native.products(kernels, x.reshape(rows, -1), [one])[0].view(*x.shape[:-1], -1)
    left, right = weight.unsqueeze(0), x.reshape(1, rows, -1).mT
    product = torch.bmm(left, right) if bias is None else torch.baddbmm(bias.unsqueeze(1), left, right)
    return product.mT.contiguous().view(*x.shape[:-1], -1)


class Linear(nn.Module):
    """y = x Wᵀ + b. The weight keeps its own dtype and is cast to the input's.

    Weights are left uninitialised: the family that builds a model knows how to fill them (`models/initialise.py`).

    Args:
        inputs, outputs: widths.
        bias: whether there is b.

    Attributes:
        adapter: None, or a module that is called in place of `plain`, and calls it. The layer's own names stay.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = False):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.adapter: nn.Module | None = None

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return self.plain(x) if self.adapter is None else self.adapter(x, self)

    def plain(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """x Wᵀ + b without an adapter."""
        return affine(x, self.weight, self.bias)

    def factor(self, x: Float[Tensor, "rows inputs"]) -> native.Factor | None:
        """What the native kernels multiply these rows with; None where they do not serve."""
        weight, bias = self.weight, self.bias
        fits = x.dtype == weight.dtype == torch.bfloat16 and x.is_cpu and weight.is_cpu and 0 < len(x) <= FEW
        if not fits or not weight.is_contiguous() or (bias is not None and bias.dtype != torch.bfloat16):
            return None
        return native.factor("bfloat16", weight, self.outputs, bias=bias)

    def full_weight(self) -> Float[Tensor, "outputs inputs"]:
        """The weight as one matrix of floats, however a sibling stores it."""
        return self.weight


def together(x: Float[Tensor, "*batch inputs"], *layers: Linear) -> list[Tensor]:
    """What several layers make of one input.

    Where the native kernels take them all it is one call, which spares a third of the time of a small layer. A layer
    with an adapter or a hook is called as ever.
    """
    kernels = None if torch.is_grad_enabled() else native.library()
    if kernels is not None and not any(one.adapter or one._forward_hooks or one._forward_pre_hooks for one in layers):
        flat = x.reshape(-1, x.shape[-1])
        factors = [found for one in layers if (found := one.factor(flat)) is not None]
        if len(factors) == len(layers):
            return [y.view(*x.shape[:-1], -1) for y in native.products(kernels, flat, factors)]
    return [one(x) for one in layers]
