"""How the work of a mixture of experts is shared out."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.models.model import Model
from langwright.objectives.batch import TokenBatch
from langwright.parts.moe import MoE
from langwright.parts.state import Taps


@torch.no_grad()
def expert_shares(model: Model, batches: Iterable[TokenBatch]) -> dict[int, Float[Tensor, " experts"]]:
    """For each layer with experts the share of all choices that each gets, over the targets of these batches."""
    blocks = enumerate(model.body.blocks)
    mixtures = {layer: moe for layer, block in blocks for moe in block.modules() if isinstance(moe, MoE)}
    counts = {layer: torch.zeros(len(moe.experts)) for layer, moe in mixtures.items()}
    for batch in batches:
        here, taps = batch.to(model.device), Taps("router")
        model.body(here.ids, here.mask, here.positions, here.segments, taps=taps)
        for (layer, moe), logits in zip(mixtures.items(), taps.get("router"), strict=True):
            chosen = logits[here.weights > 0].topk(moe.active, -1).indices
            counts[layer] += torch.bincount(chosen.flatten(), minlength=len(moe.experts)).cpu()
    return {layer: count / count.sum() for layer, count in counts.items()}
