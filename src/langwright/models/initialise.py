"""How new parameters are filled."""

import torch
from torch import nn

from langwright.parts.attention import Attention
from langwright.parts.feedforward import GLU, MLP
from langwright.parts.heads import LanguageHead, MaskedHead
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm
from langwright.parts.stack import Embedding


@torch.no_grad()
def normal(model: nn.Module, std: float, residual_scale: float = 1.0) -> None:
    """Weights from N(0, std²), biases 0, norms 1.

    residual_scale: multiplies the deviation of the last projection of each residual branch; GPT-2 uses
    `(2 * layers) ** -0.5` so that the residual stream keeps its size (Radford et al., 2019).
    """
    residual: list[Linear] = []
    tables = {module.tokens for module in model.modules() if isinstance(module, Embedding)}
    for module in model.modules():
        if isinstance(module, Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Norm):
            if module.weight is not None:
                nn.init.constant_(module.weight, 0.0 if module.plus_one else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Embedding):
            nn.init.normal_(module.tokens, std=std)
            for table in (module.positions, module.types):
                if table is not None:
                    nn.init.normal_(table, std=std)
        elif isinstance(module, LanguageHead):
            if module.weight not in tables:
                nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if module.offset is not None:
                nn.init.zeros_(module.offset)
        elif isinstance(module, MaskedHead):
            nn.init.zeros_(module.bias)
        if isinstance(module, Attention | MLP | GLU):
            residual += [module.output]
    for projection in residual:
        projection.weight.mul_(residual_scale)
