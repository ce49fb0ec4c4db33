"""The objective of language models: to predict tokens, whatever a batch asks for.

Which tokens those are is what a supply decides: the next one (causal), masked ones, the spans that sentinels stand for,
the text that noise was added to, or the target of a source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from langwright.objectives.batch import Models, PairBatch, TokenBatch
from langwright.objectives.losses import linear_cross_entropy
from langwright.parts.moe import MoE


@dataclass(frozen=True)
class TokenPrediction:
    """Cross-entropy of tokens in nats, without ever holding all logits, and the balance of experts where asked for.

    Args:
        z_loss: see `linear_cross_entropy`.
        compiled: see `linear_cross_entropy`.
        smoothing: see `linear_cross_entropy`.
    """

    z_loss: float = 0.0
    compiled: bool = False
    smoothing: float = 0.0
    weights: ClassVar[Mapping[str, float]] = {"tokens": 1.0, "balance": 1.0}

    def counts(self, batch: TokenBatch | PairBatch) -> dict[str, Tensor]:
        """Both terms count targets: the mean of what layers of experts add for a document counts for its targets."""
        return dict.fromkeys(self.weights, batch.weights.sum())

    def __call__(self, models: Models, batch: TokenBatch | PairBatch) -> dict[str, Tensor]:
        """The sums over a batch."""
        model = models["model"]
        hidden, added = batch.hidden(
            model, any(isinstance(m, MoE) and (m.balance or m.z_loss) for m in model.modules())
        )
        projection = model.head.projection(hidden)
        settings = self.z_loss, self.compiled, self.smoothing
        sums = {"tokens": linear_cross_entropy(projection, batch.targets, batch.weights, *settings)}
        return sums if added is None else {**sums, "balance": (added * batch.weights).sum()}
