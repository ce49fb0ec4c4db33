"""How the work of a mixture of experts is shared out."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.models.model import Model
from langwright.objectives.batch import PairBatch, TokenBatch
from langwright.parts.moe import MoE
from langwright.parts.state import Taps


@torch.no_grad()
def expert_shares(
    model: Model, batches: Iterable[TokenBatch | PairBatch]
) -> dict[tuple[str, int], Float[Tensor, " experts"]]:
    """For each layer with experts the share of all choices that each gets, over the tokens of these batches.

    Layers are named by their stack, "encoder" or "body", and their number. Of a decoder those tokens count that are
    targets, of an encoder all but padding.
    """
    mixtures = {
        (stack, layer): moe
        for stack, module in model.stacks.items()
        for layer, block in enumerate(module.blocks)
        for moe in block.modules()
        if isinstance(moe, MoE)
    }
    counts = {place: torch.zeros(len(moe.experts)) for place, moe in mixtures.items()}
    for batch in batches:
        here, taps = batch.to(model.device), {stack: Taps("router") for stack in model.stacks}
        if isinstance(here, PairBatch):
            source, real = here.source, here.source_mask
            memory = model.encode(source, real, here.source_segments, taps["encoder"])
            model.body(here.ids, segments=here.segments, taps=taps["body"], memory=memory)
            counted = {"encoder": torch.ones_like(source, dtype=torch.bool) if real is None else real}
        else:
            model.body(here.ids, here.mask, here.positions, here.segments, taps=taps["body"])
            counted = {}
        counted["body"] = here.weights > 0
        logits = [(stack, one) for stack, tap in taps.items() for one in tap.get("router")]
        for (place, moe), (stack, scores) in zip(mixtures.items(), logits, strict=True):
            chosen = scores[counted[stack]].topk(moe.active, -1).indices
            counts[place] += torch.bincount(chosen.flatten(), minlength=len(moe.experts)).cpu()
    return {place: count / count.sum() for place, count in counts.items()}
