"""The currencies between data and training: batches, and the objectives that they are for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.parts.carry import CarriedState

T = TypeVar("T")
Models = Any
"""Modules by name, a mapping or an `nn.ModuleDict`; a run is about "model", others (a critic) stand beside it."""


class Batch:
    """Rows of one kind that are trained on together: a frozen dataclass of tensors whose first dimension is the row.

    samples: the sample number of each row, reported when a row yields a loss that is not finite.
    """

    samples: Int[Tensor, " batch"] | None

    def __len__(self) -> int:
        """The number of rows."""
        return int(next(iter(vars(self).values())).shape[0])

    def to(self: T, device: torch.device | str) -> T:
        """The same batch on another device."""
        return type(self)(**{name: None if x is None else x.to(device) for name, x in vars(self).items()})

    def rows(self: T, start: int, stop: int) -> T:
        """The rows `start` to `stop` as a batch of their own, for gradient accumulation."""
        return type(self)(**{name: None if x is None else x[start:stop] for name, x in vars(self).items()})


@runtime_checkable
class Objective(Protocol):
    """What training lowers: the sum over terms of weight * sum / count.

    Counts are known from the batch alone, before the first forward pass, and are summed over micro-batches and ranks;
    so k micro-batches on n ranks give the gradient of one batch. Terms that couple rows gather those of other ranks.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term. The first term's count is what a run counts as its tokens."""

    def counts(self, batch: Any) -> dict[str, Tensor]:
        """How much of each term a batch holds, by the term's name."""

    def __call__(self, models: Models, batch: Any) -> dict[str, Tensor]:
        """The sum of each term over a batch; a term may be left out where it is zero.

        Args:
            models: modules by their names.
            batch: some rows, on the device of the models.
        """


@dataclass(frozen=True)
class TokenBatch(Batch):
    """Windows of text, each position with the token that it should predict.

    Args:
        ids: token ids.
        targets: the token each position should predict.
        weights: how much each target counts, 0 for padding and for targets another window already counts.
        mask: true where `ids` holds a real token; None when all are, or when padding is a segment of its own.
        positions: None means `cumsum(mask) - 1`.
        segments: the document each token belongs to, when a window packs several; None means one.
        samples: the sample number of each row.
        state: what the batches before left in the model, where rows go on from them; None where each stands alone.
    """

    ids: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    weights: Float[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"] | None = None
    positions: Int[Tensor, "batch time"] | None = None
    segments: Int[Tensor, "batch time"] | None = None
    samples: Int[Tensor, " batch"] | None = None
    state: CarriedState | None = None
