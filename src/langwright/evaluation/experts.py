"""How the work of a mixture of experts is shared out."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.models.model import Model
from langwright.objectives.batch import TokenBatch
from langwright.parts.moe import MoE
from langwright.parts.state import Taps


@dataclass(frozen=True)
class Shares:
    """Of one layer: the share of all choices of its router that each expert gets; together they are 1."""

    layer: int
    shares: Float[Tensor, " experts"]

    @property
    def busiest(self) -> float:
        """How many times its even part the busiest expert has: 1 where all have the same."""
        return float(self.shares.max()) * len(self.shares)


@torch.no_grad()
def expert_shares(model: Model, batches: Iterable[TokenBatch]) -> list[Shares]:
    """The shares of every layer that has experts, counted over the targets of these batches."""
    blocks = enumerate(model.body.blocks)
    mixtures = {layer: moe for layer, block in blocks for moe in block.modules() if isinstance(moe, MoE)}
    counts = {layer: torch.zeros(len(moe.experts)) for layer, moe in mixtures.items()}
    for batch in batches:
        here, taps = batch.to(model.device), Taps("router")
        model.body(here.ids, here.mask, here.positions, here.segments, taps=taps)
        for (layer, moe), logits in zip(mixtures.items(), taps.get("router"), strict=True):
            chosen = logits[here.weights > 0].topk(moe.active, -1).indices
            counts[layer] += torch.bincount(chosen.flatten(), minlength=len(moe.experts)).cpu()
    return [Shares(layer, count / count.sum()) for layer, count in counts.items()]
