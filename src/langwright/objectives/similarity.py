"""Pairs of texts whose vectors are to be as near as the texts are alike: their batches, and what is lowered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.objectives.batch import Batch, Models, real_tokens

Vectors = Float[Tensor, "batch dim"]


@dataclass(frozen=True)
class SimilarityBatch(Batch):
    """Pairs of texts that a model reads one by one.

    Args:
        first, second: token ids, padded with zeros.
        scores: how alike each pair is, from 0 to 1; zeros where it is not known.
        first_mask, second_mask: true where there is a real token; None when all are.
        samples: the sample number of each row.
    """

    first: Int[Tensor, "batch first"]
    second: Int[Tensor, "batch second"]
    scores: Float[Tensor, " batch"]
    first_mask: Bool[Tensor, "batch first"] | None = None
    second_mask: Bool[Tensor, "batch second"] | None = None
    samples: Int[Tensor, " batch"] | None = None

    def inputs(self, counted: Tensor) -> Tensor:
        """All that is read."""
        return real_tokens(self.first, self.first_mask) + real_tokens(self.second, self.second_mask)

    def vectors(self, model: Any) -> tuple[Vectors, Vectors]:
        """What a model makes of both sides, in float32 and of length 1, so that products are cosines."""
        sides = model(self.first, self.first_mask), model(self.second, self.second_mask)
        first, second = (F.normalize(side.float(), dim=-1) for side in sides)
        return first, second


@dataclass(frozen=True)
class CosineError:
    """Squared error of the cosine against a score (Sentence-BERT, Reimers and Gurevych, 2019)."""

    weights: ClassVar[Mapping[str, float]] = {"scores": 1.0}

    def counts(self, batch: SimilarityBatch) -> dict[str, Tensor]:
        """How many pairs there are."""
        return {"scores": torch.tensor(float(len(batch)))}

    def __call__(self, models: Models, batch: SimilarityBatch) -> dict[str, Tensor]:
        """The sum over a batch."""
        first, second = batch.vectors(models["model"])
        return {"scores": ((first * second).sum(-1) - batch.scores).square().sum()}


@dataclass(frozen=True)
class Contrast:
    """Each text finds its partner among the second texts of the whole batch (InfoNCE, van den Oord et al., 2018).

    The rows of a batch are coupled: it cannot be cut without changing what is lowered.

    Args:
        temperature: what cosines are divided by.
    """

    temperature: float = 0.05
    weights: ClassVar[Mapping[str, float]] = {"pairs": 1.0}

    def counts(self, batch: SimilarityBatch) -> dict[str, Tensor]:
        """How many pairs there are."""
        return {"pairs": torch.tensor(float(len(batch)))}

    def __call__(self, models: Models, batch: SimilarityBatch) -> dict[str, Tensor]:
        """The sum over a batch."""
        first, second = batch.vectors(models["model"])
        equal = (batch.second[:, None] == batch.second[None]).all(-1)  # a shared partner is no negative
        return {"pairs": contrastive_losses(first @ second.T, equal, self.temperature).sum()}


def contrastive_losses(
    cosines: Float[Tensor, "batch batch"], equal: Bool[Tensor, "batch batch"], temperature: float
) -> Float[Tensor, " batch"]:
    """-log of the share that a text gives its partner, in nats.

    Args:
        cosines: of each first text with each second one; partners are on the diagonal.
        equal: which second texts are the same; off the diagonal they do not count.
        temperature: what cosines are divided by.
    """
    others = equal & ~torch.eye(len(equal), dtype=torch.bool, device=equal.device)
    logits = (cosines / temperature).masked_fill(others, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
