"""Sequences of different lengths as one tensor."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def left_padded(
    rows: Sequence[Sequence[int]], device: torch.device, right: bool = False
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"] | None]:
    """Ids with padding at the left (or right), and what is real; no mask when all are equally long."""
    longest = max(map(len, rows))
    sign = -1 if right else 1
    ids = torch.tensor([([0] * (longest - len(p)) + list(p)[::sign])[::sign] for p in rows], device=device)
    if min(map(len, rows)) == longest:
        return ids, None
    real = [([False] * (longest - len(p)) + [True] * len(p))[::sign] for p in rows]
    return ids, torch.tensor(real, device=device)
