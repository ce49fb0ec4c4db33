"""How new parameters are filled."""

import torch
from torch import nn

from langwright.models.decoder import CausalLM
from langwright.models.encoder_decoder import EncoderDecoderLM
from langwright.parts.attention import Attention
from langwright.parts.feedforward import GLU, MLP
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm
from langwright.parts.stack import Embedding


@torch.no_grad()
def normal(model: CausalLM | EncoderDecoderLM, std: float, residual_scale: float = 1.0) -> None:
    """Weights from N(0, std²), biases 0, norms 1.

    residual_scale: multiplies the deviation of the last projection of each residual branch; GPT-2 uses
    `(2 * layers) ** -0.5` so that the residual stream keeps its size (Radford et al., 2019).
    """
    residual: list[Linear] = []
    for module in model.modules():
        if isinstance(module, Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Norm):
            if module.weight is not None:
                nn.init.ones_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Embedding):
            nn.init.normal_(module.tokens, std=std)
            if module.positions is not None:
                nn.init.normal_(module.positions, std=std)
        if isinstance(module, Attention | MLP | GLU):
            residual += [module.output]
    for projection in residual:
        projection.weight.mul_(residual_scale)
    if model.head.weight is not model.body.embed.tokens:
        nn.init.normal_(model.head.weight, std=std)
    if model.head.offset is not None:
        nn.init.zeros_(model.head.offset)
