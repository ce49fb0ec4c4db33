"""Inputs of linear layers scaled, and what gives them scaled back: the model computes what it did.

Rounding is not indifferent to scale. AWQ (Lin et al., 2023) enlarges the columns that meet large activations, so that
these lose less; SmoothQuant (Xiao et al., 2022) shrinks the activations that would set the step of all others.
"""

import itertools
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from langwright.compression.calibration import CalibratedBlock, Group, Moments, Weight
from langwright.models.surgery.quantise import Scheme
from langwright.parts.attention import Attention
from langwright.parts.feedforward import GLU
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm

Scale = Float[Tensor, " inputs"]
TRIALS = 20
"""Powers of the mean activation, and of shares of the largest weight, that AWQ tries."""
ALPHA = 0.5
"""How far SmoothQuant moves what is large from activations to weights."""


def fold(block: CalibratedBlock, group: Group) -> Callable[[Scale], None] | None:
    """Divides what the group reads, in the norm or the linear layer before it; None where neither can."""
    norm = group.norm
    if norm is not None and norm.weight is not None:
        return lambda scale: _divide_norm(norm, scale)
    layers = {layer for weight in group.weights for layer in weight.layers}
    for module in block.module.modules():
        before = None
        if isinstance(module, Attention) and module.heads == module.kv_heads and module.clip is None:
            before = module.v
        elif isinstance(module, GLU):
            before = module.input
        if before is not None and layers == {module.output}:
            return lambda scale, layer=before: _divide_rows(layer, scale)  # type: ignore[misc]
    return None


def _divide_rows(layer: Linear, scale: Scale) -> None:
    layer.weight.data /= scale[:, None]
    if layer.bias is not None:
        layer.bias.data /= scale


def _divide_norm(norm: Norm, scale: Scale) -> None:
    one = float(norm.plus_one)
    for parameter, added in ((norm.weight, one), (norm.bias, 0.0)):
        if parameter is not None:
            parameter.data.copy_((parameter.data + added) / scale - added)


def rescale(block: CalibratedBlock, groups: Iterable[Group], choose: Callable[[Group, Moments], Scale]) -> None:
    """Multiply the columns of each group by what is chosen for it, and divide what they read."""
    for group in groups:
        divide = fold(block, group)
        moments = block.moments(group)[0] if divide else None
        if divide and moments and moments.tokens:
            scale = choose(group, moments)
            for weight in group.weights:
                weight.set(weight.matrix * scale)
            divide(scale)


def smooth(block: CalibratedBlock) -> None:
    """SmoothQuant: s = max |x|^α / max |w|^(1 - α) of each input of a norm's readers.

    x is divided by s in the norm, and its column multiplied.
    """

    def choose(group: Group, moments: Moments) -> Scale:
        largest = torch.cat([weight.matrix.float() for weight in group.weights]).abs().amax(0)
        return (moments.largest.clamp(min=1e-5) ** ALPHA / largest.clamp(min=1e-5) ** (1 - ALPHA)).clamp(min=1e-5)

    rescale(block, [group for group in block.groups if group.norm is not None], choose)


def scale_by_activations(block: CalibratedBlock, scheme: Scheme) -> None:
    """AWQ's first half: columns are multiplied by the mean of |x| to the power that changes the outputs least.

    These are the outputs, in the first batch, of the module that holds all layers of a group.
    """

    def choose(group: Group, moments: Moments) -> Scale:
        module = _common(group)
        given, before = block.arguments(module), [weight.matrix for weight in group.weights]
        if given is None:  # an expert that the first batch sends nothing to
            return torch.ones(group.inputs)
        wanted, best = module(*given), (float("inf"), torch.ones(group.inputs))
        for trial in range(TRIALS):
            scale = (moments.absolute / moments.tokens).clamp(min=1e-8) ** (trial / TRIALS)
            scale = (scale / (scale.max() * scale.min()).sqrt()).clamp(min=1e-4)
            for weight, matrix in zip(group.weights, before, strict=True):
                weight.set(scheme.quantise(matrix.float() * scale).full_weight(torch.float32) / scale)
            error = float((module(*given) - wanted).float().square().mean())
            best = min(best, (error, scale), key=lambda found: found[0])
        for weight, matrix in zip(group.weights, before, strict=True):
            weight.set(matrix)
        return best[1]

    rescale(block, block.groups, choose)


def _common(group: Group) -> nn.Module:
    """The innermost module that holds all layers of a group."""
    names = [name.split(".") for weight in group.weights for name in weight.modules]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))
    return group.weights[0].model.get_submodule(".".join(parts[0] for parts in shared))


def clipped(weight: Weight, moments: Moments, scheme: Scheme) -> Float[Tensor, "outputs inputs"]:
    """AWQ's second half: of each row's groups of columns the largest are cut, where a finer step is worth it.

    The error is that of the group's own part of the output, Δw Σ x xᵀ Δwᵀ. Queries and keys, whose products are what
    counts, stay whole.
    """
    matrix = weight.matrix.float()
    for name in weight.modules:
        owner = weight.model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, Attention) and name.rpartition(".")[2] in ("q", "k"):
            return matrix
    size = scheme.columns_a_scale(matrix.shape[1])
    own = torch.stack([moments.second[i : i + size, i : i + size] for i in range(0, len(moments.second), size)])
    groups = matrix.unflatten(1, (-1, size))
    largest, best = groups.abs().amax(2, keepdim=True), groups
    least = torch.full(largest.shape[:2], torch.inf)
    for trial in range(TRIALS // 2):
        bound = largest * (1 - trial / TRIALS)
        cut = groups.clamp(-bound, bound)
        change = scheme.quantise(cut.flatten(1)).full_weight(torch.float32).view_as(groups) - groups
        error = (torch.einsum("rgi,gij->rgj", change, own) * change).sum(2)
        best = torch.where((error < least)[..., None], cut, best)
        least = least.minimum(error)
    return best.flatten(1)
