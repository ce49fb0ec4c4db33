"""What reads series of several channels in the place of a token table."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.parts.linear import Linear


class SeriesVectors(nn.Module):
    """One vector for each few samples of all channels: a linear layer over pieces of a series (Nie et al., 2023).

    Args:
        channels: how many there are.
        samples: how many in a row make a vector; zeros fill the last piece.
        dim: width of the vectors.
    """

    def __init__(self, channels: int, samples: int, dim: int):
        super().__init__()
        self.samples = samples
        self.input = Linear(channels * samples, dim, bias=True)

    def length(self, time: int) -> int:
        """How many vectors so many samples make."""
        return -(-time // self.samples)

    def forward(self, series: Float[Tensor, "batch time channels"]) -> Float[Tensor, "batch length dim"]:
        time = series.shape[1]
        whole = F.pad(series, (0, 0, 0, self.length(time) * self.samples - time))
        return self.input(whole.unflatten(1, (-1, self.samples)).flatten(2))
