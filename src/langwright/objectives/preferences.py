"""What people prefer, as batches of answers and losses of their scores or log-probabilities.

All losses are in float32 and by row. log σ is the logarithm of the logistic function.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.objectives.batch import Batch, Models, real_tokens

Rows = Float[Tensor, " rows"]
Scores = Float[Tensor, "rows answers"]


@dataclass(frozen=True)
class PreferenceBatch(Batch):
    """Prompts with answers in order, the best one first; each answer stands behind its prompt.

    Args:
        ids: token ids; rows have as many answers as the row with most, padded with zeros.
        mask: true where there is a real token. An answer that is not there is one token.
        written: the positions whose token belongs to an answer.
        there: which answers there are.
        margins: how much better the first of two answers is, in units of the reward.
        types: the type of each token, where the model tells texts of a pair apart.
        samples: the sample number of each row.
    """

    ids: Int[Tensor, "rows answers time"]
    mask: Bool[Tensor, "rows answers time"]
    written: Bool[Tensor, "rows answers time"]
    there: Bool[Tensor, "rows answers"]
    margins: Float[Tensor, " rows"]
    types: Int[Tensor, "rows answers time"] | None = None
    samples: Int[Tensor, " rows"] | None = None

    def inputs(self, counted: Tensor) -> Tensor:
        """All that is read."""
        return real_tokens(self.ids, self.mask)

    def scores(self, model: Any) -> Scores:
        """What a head of one output makes of each answer behind its prompt.

        The head computes in float32: in bfloat16 a score has three digits, and near ones would be the same.
        """
        ids, mask = self.ids.flatten(0, 1), self.mask.flatten(0, 1)
        if model.encoders:
            return model(ids, mask)[:, 0].float().view(self.there.shape)
        types = self.types.flatten(0, 1) if self.types is not None and model.typed else None
        return model.head(model.body(ids, mask, types=types).float(), mask)[:, 0].view(self.there.shape)


def bradley_terry_losses(chosen: Rows, rejected: Rows, margins: Rows) -> Rows:
    """-log σ(chosen - rejected - margin) (Bradley and Terry, 1952; the margin of Touvron et al., 2023)."""
    return -F.logsigmoid(chosen - rejected - margins)


def ranking_losses(scores: Scores, there: Bool[Tensor, "rows answers"]) -> Rows:
    """-log of the probability that a softmax draws the answers in their order, without putting any back.

    Of two answers it is that of Bradley and Terry (Plackett, 1975; k-wise comparisons: Zhu et al., 2023).

    Args:
        scores: of the answers, the best one first.
        there: which of them there are.
    """
    kept = scores.masked_fill(~there, torch.finfo(scores.dtype).min / 2)  # infinity would make gradients NaN
    rest = kept.flip(1).logcumsumexp(1).flip(1)  # of an answer and all after it
    return ((rest - kept) * there).sum(1)


def in_order(scores: Scores, there: Bool[Tensor, "rows answers"]) -> tuple[Rows, Rows]:
    """The share of the pairs of a row whose better answer has the higher score, a tie counting half; and the mean of
    the differences.
    """
    differences = scores[:, :, None] - scores[:, None]
    pairs = (there[:, :, None] & there[:, None]).triu(1)
    count = pairs.sum((1, 2))
    right = (differences > 0).float() + (differences == 0).float() / 2
    return (right * pairs).sum((1, 2)) / count, (differences * pairs).sum((1, 2)) / count


@dataclass(frozen=True)
class RewardModelling:
    """Scores that put answers in their order; `models["model"]` has a head of one output.

    Beside the loss it measures how often a pair is in order (`accuracy`), by how much (`margin`), and the mean score
    (`reward`).

    Args:
        centring: weight of the square of the mean score of a row, times 4: of (r_1 + r_2)² for a pair. It keeps scores
            near 0, which only differences decide otherwise (Eisenstein et al., 2023).
    """

    centring: float = 0.0

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the terms; those of weight 0 are measured."""
        centred = {"centring": self.centring} if self.centring else {}
        return {"order": 1.0, **centred, "accuracy": 0.0, "margin": 0.0, "reward": 0.0}

    def counts(self, batch: PreferenceBatch) -> dict[str, Tensor]:
        """How many rows there are; answers, for the mean score."""
        rows = torch.tensor(float(len(batch)))
        return {**dict.fromkeys(self.weights, rows), "reward": batch.there.sum().float()}

    def __call__(self, models: Models, batch: PreferenceBatch) -> dict[str, Tensor]:
        """The sums over a batch."""
        scores, there = batch.scores(models["model"]), batch.there
        if scores.shape[1] == 2:  # else margins are 0
            losses = bradley_terry_losses(scores[:, 0], scores[:, 1], batch.margins)
        else:
            losses = ranking_losses(scores, there)
        real = scores * there
        sums = {"order": losses.sum()}
        if self.centring:
            sums["centring"] = (2 * real.sum(1) / there.sum(1)).square().sum()
        right, margin = in_order(scores.detach(), there)
        return sums | {"accuracy": right.sum(), "margin": margin.sum(), "reward": real.detach().sum()}
