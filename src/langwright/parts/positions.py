"""Where a token stands. Everything here reads positions, never shapes."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Tables(NamedTuple):
    """Cosines and signed sines of every position; interleaved: neighbours are turned together, not halves."""

    cos: Float[Tensor, "#batch 1 time head_dim"]
    sin: Float[Tensor, "#batch 1 time head_dim"]
    interleaved: bool = False


@dataclass(frozen=True)
class Llama3Scaling:
    """The wavelength-dependent slow-down of Llama 3.1 (rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __call__(self, frequencies: Float[Tensor, " half"]) -> Float[Tensor, " half"]:
        turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)
        smooth = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - smooth) * frequencies / self.factor + smooth * frequencies


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation (Chen et al., 2023): every position is divided by `factor` (rope_type "linear")."""

    factor: float

    def __call__(self, frequencies: Float[Tensor, " half"]) -> Float[Tensor, " half"]:
        return frequencies / self.factor


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al., 2021), in the half-split layout of the Hugging Face checkpoints.

    head_dim: the width that is rotated, the first part of a head where heads are wider.
    theta: the base of the geometric row of wavelengths.
    backwards: turn the other way round (NanoChat); scores depend on distances all the same.
    interleaved: pairs are neighbours, as in the paper, instead of the halves' elements of the same number.
    """

    head_dim: int
    theta: float = 10_000.0
    scaling: Llama3Scaling | LinearScaling | None = None
    backwards: bool = False
    interleaved: bool = False

    def tables(self, positions: Int[Tensor, "batch time"], dtype: torch.dtype) -> Tables:
        """The cosines and signed sines of every position, made once a stack and shared by its layers."""
        exponents = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32) / self.head_dim
        frequencies = self.theta**-exponents
        if self.scaling is not None:
            frequencies = self.scaling(frequencies)
        angles = positions[:, None, :, None].float() * frequencies
        cos, sin = angles.cos(), -angles.sin() if self.backwards else angles.sin()
        cos, sin = torch.stack((cos, cos), -1), torch.stack((-sin, sin), -1)
        if not self.interleaved:
            cos, sin = cos.mT, sin.mT
        return Tables(cos.flatten(-2).to(dtype), sin.flatten(-2).to(dtype), self.interleaved)


def rotate(x: Float[Tensor, "batch heads time head_dim"], tables: Tables) -> Float[Tensor, "batch heads time head_dim"]:
    """Turn each pair (x[i], x[i + width / 2]), or (x[2i], x[2i + 1]), by its position's angle.

    The width is that of the tables; what a head has beyond stays as it is.
    """
    cos, sin, interleaved = tables
    width = cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], tables), x[..., width:]), -1)
    partners = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if interleaved else x.roll(width // 2, -1)
    return x * cos + partners * sin
