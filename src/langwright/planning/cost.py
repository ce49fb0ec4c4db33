"""Parameters and floating-point operations of a model."""

from langwright.models.decoder import CausalLM
from langwright.parts.attention import Attention
from langwright.parts.linear import Linear


def parameters(model: CausalLM) -> int:
    """All parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def training_flops_per_token(model: CausalLM, context: int) -> int:
    """Forward and backward: 6 * matmul parameters + 6 * layers * T * width.

    The head counts, the embedding look-up does not; the second term is attention, of which causality needs half.
    """
    matmul = sum(m.weight.numel() for m in model.modules() if isinstance(m, Linear)) + model.head.weight.numel()
    attention = sum(context * m.heads * m.head_dim for m in model.modules() if isinstance(m, Attention))
    return 6 * matmul + 6 * attention
