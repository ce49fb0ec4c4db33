"""Parameters and floating-point operations of a model."""

from torch import nn

from langwright.models.decoder import CausalLM
from langwright.parts.attention import Attention
from langwright.parts.linear import Linear
from langwright.parts.moe import MoE
from langwright.parts.quantised import QuantisedLinear


def parameters(model: CausalLM) -> int:
    """All parameters, shared ones once, and the weights that are stored in few bits."""
    packed = sum(m.inputs * m.outputs for m in model.modules() if isinstance(m, QuantisedLinear))
    return packed + sum(p.numel() for p in model.parameters())


def training_flops_per_token(model: CausalLM, context: int) -> int:
    """Forward and backward: 6 * matmul parameters + 6 * layers * T * width.

    The head counts, the embedding look-up does not; of experts those count that a token passes. The second term is
    attention, of which causality needs half.
    """
    matmul = _linear(model) + model.head.weight.numel()
    for moe in (m for m in model.modules() if isinstance(m, MoE)):
        matmul -= _linear(moe.experts) * (len(moe.experts) - moe.active) // len(moe.experts)
    attention = sum(context * m.heads * m.head_dim for m in model.modules() if isinstance(m, Attention))
    return 6 * matmul + 6 * attention


def _linear(module: nn.Module) -> int:
    """Weights of all linear maps."""
    return sum(m.inputs * m.outputs for m in module.modules() if isinstance(m, Linear))
