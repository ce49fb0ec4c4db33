"""A student that learns what a teacher would say of each token, and how it thinks of it (Hinton et al., 2015)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from langwright.objectives.batch import Models, TokenBatch
from langwright.objectives.losses import linear_cross_entropy, logits_of
from langwright.parts.heads import Projection
from langwright.parts.linear import Linear
from langwright.parts.state import Taps

CHUNK = 1024
"""Tokens whose logits, of both models, are held at once."""


def divergence(
    student: Float[Tensor, "tokens vocabulary"], teacher: Float[Tensor, "tokens vocabulary"], temperature: float
) -> Float[Tensor, " tokens"]:
    """T² KL(teacher ‖ student) of the distributions whose logits are divided by T, in nats, in float32.

    T² makes the gradient as large as without a temperature, as long as logits are small beside it.
    """
    said, meant = ((logits.float() / temperature).log_softmax(-1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(said, meant, reduction="none", log_target=True).sum(-1)


def linear_divergence(
    student: Projection, teacher: Projection, weights: Float[Tensor, "*batch"], temperature: float
) -> Float[Tensor, ""]:
    """The sum of `weights * divergence`; logits are held for some tokens, and computed again on the way back."""

    def part(hidden: Tensor, meant: Tensor, weight: Tensor) -> Tensor:
        return (divergence(logits_of(student, hidden), logits_of(teacher, meant), temperature) * weight).sum()

    total = torch.zeros((), device=weights.device)
    flat = (x.flatten(0, -2).split(CHUNK) for x in (student.hidden, teacher.hidden, weights[..., None]))
    for hidden, meant, weight in zip(*flat, strict=True):
        total = total + checkpoint(part, hidden, meant, weight[:, 0], use_reentrant=False)
    return total


@dataclass(frozen=True)
class Distillation:
    """Tokens as they are, tokens as the teacher weighs them, and its hidden states; `models["teacher"]` is not trained.

    Each layer of the student is compared with the teacher's at the same share of the depth: the mean square of the
    difference over the mean square of the teacher's, through `models["maps"]`, which are trained too.

    Args:
        temperature: what logits of both are divided by.
        soft: weight of the teacher's distribution; the tokens themselves have the rest.
        hidden: weight of the hidden states.
    """

    temperature: float = 2.0
    soft: float = 0.5
    hidden: float = 0.0

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the three terms."""
        return {"tokens": 1 - self.soft, "teacher": self.soft, "hidden": self.hidden}

    def counts(self, batch: TokenBatch) -> dict[str, Tensor]:
        """All count targets."""
        return dict.fromkeys(self.weights, batch.weights.sum())

    def __call__(self, models: Models, batch: TokenBatch) -> dict[str, Tensor]:
        """The sums over a batch."""
        student, teacher = models["model"], models["teacher"].eval()  # training turns all models' dropout on
        mine, theirs = (Taps("hidden") if self.hidden else None for _ in range(2))
        said = _read(student, batch, mine)
        with torch.no_grad():
            meant = _read(teacher, batch, theirs)
        sums = {
            "tokens": linear_cross_entropy(said, batch.targets, batch.weights),
            "teacher": linear_divergence(said, meant, batch.weights, self.temperature),
        }
        if mine is not None and theirs is not None:
            pairs = zip(
                models["maps"], mine.get("hidden"), spread(theirs.get("hidden"), len(models["maps"])), strict=True
            )
            each = [_distance(layer(own), other.float()) for layer, own, other in pairs]
            sums["hidden"] = (torch.stack(each).mean(0) * batch.weights).sum()
        return sums


def _read(model: Any, batch: TokenBatch, taps: Taps | None) -> Projection:
    hidden = model.body(batch.ids, batch.mask, batch.positions, batch.segments, batch.state, taps)
    found: Projection = model.head.projection(batch.predicting(hidden))
    return found


def _distance(own: Tensor, other: Tensor) -> Float[Tensor, "batch time"]:
    return (own.float() - other).square().mean(-1) / other.square().mean(-1).clamp(min=1e-6)


def spread(layers: list[Tensor], count: int) -> list[Tensor]:
    """`count` of some layers, evenly spread, the last one included; where there are fewer, some more than once."""
    return [layers[-(-(number + 1) * len(layers) // count) - 1] for number in range(count)]


def maps_between(layers: int, width: int, teacher_width: int) -> nn.ModuleList:
    """A linear layer for each of a student's, which begins as the identity as far as that goes."""
    maps = [Linear(width, teacher_width) for _ in range(layers)]
    for one in maps:
        nn.init.eye_(one.weight)
    return nn.ModuleList(maps)
