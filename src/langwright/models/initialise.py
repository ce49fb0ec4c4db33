"""How new parameters are filled."""

from typing import Any

import torch
from torch import nn

from langwright.parts import GLU, MLP, Attention, Linear, MaskedHead, Norm, RelativeBias


@torch.no_grad()
def normal(model: nn.Module, std: float, residual_scale: float = 1.0) -> None:
    """Weights from N(0, std²), biases 0, norms 1.

    residual_scale: multiplies the deviation of the last projection of each residual branch; GPT-2 uses
    `(2 * layers) ** -0.5` so that the residual stream keeps its size (Radford et al., 2019).
    """
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, Norm) and name.endswith("weight"):
            nn.init.constant_(parameter, 0.0 if module.plus_one else 1.0)
        elif name.endswith(("bias", "offset")):
            nn.init.zeros_(parameter)
        elif not isinstance(module, RelativeBias | MaskedHead):
            nn.init.normal_(parameter, std=std)
    for module in model.modules():
        if isinstance(module, Attention | MLP | GLU):
            module.output.weight.mul_(residual_scale)


@torch.no_grad()
def by_inputs(model: Any, variance: float = 1.0, cut: float | None = None) -> None:
    """Linear maps from N(0, variance / inputs), tables of distances N(0, 1 / d_model), embeddings and head N(0, 1).

    All that times `initializer_factor`, at which norms begin; as T5 does (Raffel et al., 2020). What makes queries is
    divided by sqrt(d_kv), by which scores are not. cut: linear maps draw nothing beyond so many deviations.
    """
    c, factor = model.config, model.config.initializer_factor
    normal(model, factor)
    for module in model.modules():
        if isinstance(module, Linear):
            std = factor * (module.weight.shape[1] / variance) ** -0.5
            if cut is None:
                nn.init.normal_(module.weight, std=std)
            else:
                nn.init.trunc_normal_(module.weight, std=std, a=-cut * std, b=cut * std)
        elif isinstance(module, RelativeBias):
            nn.init.normal_(module.table, std=factor * c.d_model**-0.5)
        elif isinstance(module, Norm) and module.weight is not None:
            nn.init.constant_(module.weight, factor)
    for module in model.modules():
        if isinstance(module, Attention):
            module.q.weight.mul_(c.d_kv**-0.5)


@torch.no_grad()
def by_sides(model: Any) -> None:
    """Linear maps from U(-a, a), a² = 6 / (inputs + outputs) (Glorot and Bengio, 2010), tokens from N(0, 1 / width).

    So that tokens times sqrt(width) are as large as the sinusoids that are added to them (Vaswani et al., 2017).
    """
    normal(model, model.config.d_model**-0.5)
    for module in model.modules():
        if isinstance(module, Linear):
            nn.init.xavier_uniform_(module.weight)


def by_range(model: Any) -> None:
    """`normal` with the deviation that most configs name."""
    normal(model, model.config.initializer_range)
