"""Where a token stands. Everything here reads positions, never shapes."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Tables = tuple[Float[Tensor, "#batch 1 time head_dim"], Float[Tensor, "#batch 1 time head_dim"]]


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

    head_dim: the width that is rotated; theta: the base of the geometric row of wavelengths.
    backwards: turn the other way round (NanoChat); scores depend on distances all the same.
    """

    head_dim: int
    theta: float = 10_000.0
    scaling: Llama3Scaling | LinearScaling | None = None
    backwards: bool = False

    def tables(self, positions: Int[Tensor, "batch time"], dtype: torch.dtype) -> Tables:
        """The cosines and signed sines of every position, made once a stack and shared by its layers."""
        exponents = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32) / self.head_dim
        frequencies = self.theta**-exponents
        if self.scaling is not None:
            frequencies = self.scaling(frequencies)
        angles = positions[:, None, :, None].float() * frequencies
        cos, sin = angles.cos(), -angles.sin() if self.backwards else angles.sin()
        return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


@dataclass(frozen=True)
class Sinusoids:
    """Fixed position vectors (Vaswani et al., 2017): a row of sines, then a row of cosines, of falling frequency."""

    dim: int

    def __call__(self, positions: Int[Tensor, "#batch time"]) -> Float[Tensor, "#batch time dim"]:
        """In float64 where the device has it: at position 1000 float32 angles are off in the fifth digit."""
        wide = torch.float32 if positions.device.type == "mps" else torch.float64
        exponents = torch.arange(0, self.dim, 2, device=positions.device, dtype=wide) / self.dim
        angles = positions[:, :, None].to(wide) * 10_000**-exponents
        return torch.cat((angles.sin(), angles.cos()), -1).float()


def rotate(x: Float[Tensor, "batch heads time head_dim"], tables: Tables) -> Float[Tensor, "batch heads time head_dim"]:
    """Turn each pair (x[i], x[i + head_dim / 2]) by its position's angle."""
    cos, sin = tables
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin
