"""The one currency between data and training."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What one forward and backward pass sees.

    ids: token ids.
    targets: the token each position should predict.
    weights: how much each target counts, 0 for padding and for targets another window already counts.
    mask: true where `ids` holds a real token; None when all are, or when padding is a segment of its own.
    positions: None means `cumsum(mask) - 1`.
    segments: the document each token belongs to, when a window packs several; None means one.
    samples: the sample number of each row, reported when a row yields a non-finite loss.
    """

    ids: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    weights: Float[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"] | None = None
    positions: Int[Tensor, "batch time"] | None = None
    segments: Int[Tensor, "batch time"] | None = None
    samples: Int[Tensor, " batch"] | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def rows(self, start: int, stop: int) -> "Batch":
        """The rows `start` to `stop` as a batch of their own, for gradient accumulation."""
        return self._each(lambda tensor: tensor[start:stop])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = (getattr(self, field.name) for field in fields(self))
        return Batch(*(None if tensor is None else change(tensor) for tensor in tensors))  # type: ignore[arg-type]
