"""The objective of language models: to predict tokens, whatever a batch asks for.

Which tokens those are is what a supply decides: the next one (causal), masked ones, the spans that sentinels stand for,
the text that noise was added to, or the target of a source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from langwright.objectives.batch import Hidden, Models, PairBatch, TokenBatch
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


@dataclass(frozen=True, kw_only=True)
class NextSentenceBatch(TokenBatch):
    """Pairs of texts with masks.

    Args:
        types: of each token, which text of the pair it belongs to.
        unrelated: 1 where the second text does not follow the first, else 0, as `transformers` counts.
    """

    types: Int[Tensor, "batch time"]
    unrelated: Int[Tensor, " batch"]

    def hidden(self, model: Any, balance: bool = False) -> Hidden:
        """What a model makes of the masked tokens."""
        return self.predicting(self.read(model)), None

    def read(self, model: Any) -> Float[Tensor, "batch time dim"]:
        """What a model makes of all tokens."""
        hidden: Tensor = model.body(self.ids, self.mask, self.positions, types=self.types)
        return hidden


@dataclass(frozen=True)
class NextSentence(TokenPrediction):
    """Masked tokens, and whether the second text of a pair follows the first (BERT, Devlin et al., 2018)."""

    weights: ClassVar[Mapping[str, float]] = {"tokens": 1.0, "next": 1.0}

    def counts(self, batch: NextSentenceBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """Masked tokens, and pairs."""
        return {"tokens": batch.weights.sum(), "next": batch.weights.new_tensor(float(len(batch)))}

    def __call__(self, models: Models, batch: NextSentenceBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """The sums over a batch; `models["model"].next` answers the second."""
        model = models["model"]
        read = batch.read(model)
        projection, settings = model.head.projection(batch.predicting(read)), (self.z_loss, self.compiled)
        return {
            "tokens": linear_cross_entropy(projection, batch.targets, batch.weights, *settings, self.smoothing),
            "next": F.cross_entropy(model.next(read, batch.mask).float(), batch.unrelated, reduction="sum"),
        }
