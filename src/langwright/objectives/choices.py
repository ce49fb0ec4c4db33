"""One of several texts is chosen: the batch, its scores, and what is lowered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.objectives.batch import Batch, Models, real_tokens


@dataclass(frozen=True)
class ChoiceBatch(Batch):
    """Questions with choices, each of which stands behind its question.

    Args:
        ids: token ids; rows have as many choices as the row with most, padded with zeros.
        mask: true where there is a real token. A choice that is not there is one token.
        written: the positions whose token belongs to a choice.
        there: which choices there are.
        gold: the right one; zeros where it is not known.
        types: the type of each token, where the model tells them apart.
        samples: the sample number of each row.
    """

    ids: Int[Tensor, "batch choices time"]
    mask: Bool[Tensor, "batch choices time"]
    written: Bool[Tensor, "batch choices time"]
    there: Bool[Tensor, "batch choices"]
    gold: Int[Tensor, " batch"]
    types: Int[Tensor, "batch choices time"] | None = None
    samples: Int[Tensor, " batch"] | None = None

    def inputs(self, counted: Tensor) -> Tensor:
        """All that is read."""
        return real_tokens(self.ids, self.mask)

    def scores(self, model: Any) -> Float[Tensor, "batch choices"]:
        """How well each choice fits: the logit of a head of one output, or log p(choice | question) in nats."""
        types = self.types.flatten(0, 1) if self.types is not None and model.typed else None
        logits = model(self.ids.flatten(0, 1), self.mask.flatten(0, 1), types=types).float()
        if model.generates:
            tokens = self.ids.flatten(0, 1)[:, 1:]
            losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens.flatten(), reduction="none").view(
                tokens.shape
            )
            scores = -(losses * self.written.flatten(0, 1)[:, 1:]).sum(-1)
        else:
            scores = logits[:, 0]
        return scores.view(self.there.shape).masked_fill(~self.there, -torch.inf)


@dataclass(frozen=True)
class Choosing:
    """Cross-entropy of the right choice among those of its row (BERT on SWAG, Devlin et al., 2018).

    Args:
        smoothing: the share of the right one that is spread over all choices of its row.
    """

    smoothing: float = 0.0
    weights: ClassVar[Mapping[str, float]] = {"choices": 1.0}

    def counts(self, batch: ChoiceBatch) -> dict[str, Tensor]:
        """How many rows there are."""
        return {"choices": torch.tensor(float(len(batch)))}

    def __call__(self, models: Models, batch: ChoiceBatch) -> dict[str, Tensor]:
        """The sum over a batch."""
        losses = -batch.scores(models["model"]).log_softmax(-1)
        right = losses.gather(1, batch.gold[:, None])[:, 0]
        spread = losses.masked_fill(~batch.there, 0).sum(-1) / batch.there.sum(-1)
        return {"choices": ((1 - self.smoothing) * right + self.smoothing * spread).sum()}
