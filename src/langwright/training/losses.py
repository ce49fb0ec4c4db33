"""Objectives as the loop wants them: (model, batch) -> sum of the weighted losses."""

import torch
from torch import Tensor

from langwright.models.model import Model
from langwright.objectives.batch import Batch
from langwright.objectives.losses import linear_cross_entropy
from langwright.parts.moe import MoE
from langwright.parts.state import Taps
from langwright.training.learner import Loss


def causal(z_loss: float = 0.0, compiled: bool = False) -> Loss:
    """Next-token cross-entropy in nats, without ever holding all logits. compiled: see `linear_cross_entropy`.

    Where experts are to have the same work, the mean of what each layer adds for it counts for every target of a
    document.
    """

    def loss(model: Model, batch: Batch) -> Tensor:
        charged = any(isinstance(m, MoE) and (m.balance or m.z_loss) for m in model.modules())
        taps = Taps("auxiliary") if charged else None
        hidden = model.body(batch.ids, batch.mask, batch.positions, batch.segments, taps=taps)
        projection = model.head.projection(hidden)
        total = linear_cross_entropy(projection, batch.targets, batch.weights, z_loss, compiled)
        if taps is None:
            return total
        auxiliary = torch.stack(taps.get("auxiliary")).mean(0)[
            :, -batch.ids.shape[1] :
        ]  # virtual tokens stand in front
        return total + (auxiliary * batch.weights).sum()

    return loss
