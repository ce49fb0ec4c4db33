"""Objectives of language models, as the learner wants them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from langwright.models.model import Model
from langwright.objectives.batch import Models, TokenBatch
from langwright.objectives.losses import linear_cross_entropy
from langwright.parts.moe import MoE
from langwright.parts.state import Taps


@dataclass(frozen=True)
class Causal:
    """Next-token cross-entropy in nats, without ever holding all logits; and the balance of experts, where asked for.

    Args:
        z_loss: see `linear_cross_entropy`.
        compiled: see `linear_cross_entropy`.
    """

    z_loss: float = 0.0
    compiled: bool = False
    weights: ClassVar[Mapping[str, float]] = {"tokens": 1.0, "balance": 1.0}

    def counts(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Both terms count targets: the mean of what layers of experts add for a document counts for its targets."""
        return dict.fromkeys(self.weights, batch.weights.sum())

    def __call__(self, models: Models, batch: TokenBatch) -> dict[str, Tensor]:
        """The sums over a batch."""
        model: Model = models["model"]
        charged = any(isinstance(m, MoE) and (m.balance or m.z_loss) for m in model.modules())
        taps = Taps("auxiliary") if charged else None
        hidden = model.body(batch.ids, batch.mask, batch.positions, batch.segments, taps=taps)
        projection = model.head.projection(hidden)
        sums = {"tokens": linear_cross_entropy(projection, batch.targets, batch.weights, self.z_loss, self.compiled)}
        if taps is not None:
            # Of each token its document's; virtual tokens stand in front and have no targets.
            balance = torch.stack(taps.get("auxiliary")).mean(0)[:, -batch.ids.shape[1] :]
            sums["balance"] = (balance * batch.weights).sum()
        return sums
