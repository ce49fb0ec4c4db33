"""Objectives as the loop wants them: (model, batch) -> sum of the weighted losses."""

from torch import Tensor

from langwright.models.decoder import CausalLM
from langwright.objectives.batch import Batch
from langwright.objectives.losses import linear_cross_entropy
from langwright.training.learner import Loss


def causal(z_loss: float = 0.0) -> Loss:
    """Next-token cross-entropy in nats, without ever holding all logits."""

    def loss(model: CausalLM, batch: Batch) -> Tensor:
        hidden = model.body(batch.ids, batch.mask, batch.positions, batch.segments)
        return linear_cross_entropy(hidden, model.head.weight, batch.targets, batch.weights, z_loss, model.head.softcap)

    return loss
