"""Parameters and floating-point operations of a model."""

from torch import nn

from langwright.models.model import Model
from langwright.parts.attention import Attention
from langwright.parts.linear import Linear
from langwright.parts.moe import MoE
from langwright.parts.quantised import QuantisedLinear
from langwright.parts.recurrent import Recurrent


def parameters(model: nn.Module) -> int:
    """All parameters, shared ones once, and the weights that are stored quantised."""
    packed = sum(m.inputs * m.outputs for m in model.modules() if isinstance(m, QuantisedLinear))
    return packed + sum(p.numel() for p in model.parameters())


def active_parameters(model: nn.Module) -> int:
    """Those that one token passes: of experts, as many as its router chooses."""
    return parameters(model) - sum(_idle(moe, parameters(moe.experts)) for moe in _mixtures(model))


def training_flops_per_token(model: Model, context: int) -> int:
    """Forward and backward: 6 * matmul parameters + 6 * layers * T * width.

    The head counts, the embedding look-up does not; of experts those count that a token passes. The second term is
    attention, of which causality needs half. Of an encoder-decoder about half of the tokens pass each side.
    """
    matmul = _linear(model) + (model.head.weight.numel() if hasattr(model.head, "weight") else 0)
    matmul -= sum(_idle(moe, _linear(moe.experts)) for moe in _mixtures(model))
    attention = sum(context * m.heads * m.head_dim for m in model.modules() if isinstance(m, Attention))
    both = 6 * matmul + 6 * attention
    return both // 2 if model.encoders else both


def _linear(module: nn.Module) -> int:
    """Weights of all linear layers, those between the hidden states of recurrent layers included."""
    recurrent = sum(m.hidden_weight.numel() for m in module.modules() if isinstance(m, Recurrent))
    return recurrent + sum(m.inputs * m.outputs for m in module.modules() if isinstance(m, Linear))


def _mixtures(model: nn.Module) -> list[MoE]:
    return [module for module in model.modules() if isinstance(module, MoE)]


def _idle(moe: MoE, of_experts: int) -> int:
    """How much of what all experts have together lies with those that a token does not pass."""
    return of_experts * (len(moe.experts) - moe.active) // len(moe.experts)
