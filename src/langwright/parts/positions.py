"""Where a token stands. Everything here reads positions, never shapes."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.parts import native
from langwright.parts.linear import FEW
from langwright.parts.rope_scaling import Scaling

Positions = Int[Tensor, "#batch time"]
Segments = Int[Tensor, "batch time"]
Real = Bool[Tensor, "batch time"]


class Tables(NamedTuple):
    """Cosines and signed sines of every position; interleaved: neighbours are turned together, not halves."""

    cos: Float[Tensor, "#batch 1 time head_dim"]
    sin: Float[Tensor, "#batch 1 time head_dim"]
    interleaved: bool = False


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al., 2021), in the half-split layout of the Hugging Face checkpoints.

    Args:
        head_dim: the width that is rotated, the first part of a head where heads are wider.
        theta: the base of the geometric row of wavelengths.
        scaling: how positions are stretched past the length of training.
        backwards: turn the other way round (NanoChat); scores depend on distances all the same.
        interleaved: pairs are neighbours, as in the paper, instead of the halves' elements of the same number.
    """

    head_dim: int
    theta: float = 10_000.0
    scaling: Scaling | None = None
    backwards: bool = False
    interleaved: bool = False

    def tables(
        self, positions: Positions, dtype: torch.dtype, real: Real | None = None, segments: Segments | None = None
    ) -> Tables:
        """The cosines and signed sines of every position, made once a stack and shared by its layers.

        Args:
            positions: of the tokens.
            dtype: of the tables.
            real: true where a token is no padding; None means all are.
            segments: the document of each token; None means one a row.
        """
        exponents = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32) / self.head_dim
        frequencies = self.theta**-exponents
        if self.scaling is not None:
            frequencies = self.scaling(frequencies, self.theta, document_lengths(positions, real, segments))
        angles = positions[:, None, :, None].float() * (frequencies[:, None] if frequencies.ndim > 1 else frequencies)
        cos, sin = angles.cos(), -angles.sin() if self.backwards else angles.sin()
        if self.scaling is not None:
            cos, sin = cos * self.scaling.magnitude, sin * self.scaling.magnitude
        cos, sin = torch.stack((cos, cos), -1), torch.stack((-sin, sin), -1)
        if not self.interleaved:
            cos, sin = cos.mT, sin.mT
        return Tables(cos.flatten(-2).to(dtype), sin.flatten(-2).to(dtype), self.interleaved)


def document_lengths(positions: Positions, real: Real | None, segments: Segments | None) -> Int[Tensor, "batch #time"]:
    """The length of the document that each token belongs to, padding left out; of a row that is one, once."""
    positions = positions if real is None else positions.expand_as(real).masked_fill(~real, 0)
    if segments is None:
        return positions.amax(1, keepdim=True) + 1
    document = segments - segments.min()
    last = positions.new_zeros(len(segments), int(document.max()) + 1)
    return last.scatter_reduce(1, document, positions.expand_as(document), "amax").gather(1, document) + 1


def rotate(x: Float[Tensor, "batch heads time head_dim"], tables: Tables) -> Float[Tensor, "batch heads time head_dim"]:
    """Turn each pair (x[i], x[i + width / 2]), or (x[2i], x[2i + 1]), by its position's angle.

    The width is that of the tables; what a head has beyond stays as it is.
    """
    cos, sin, interleaved = tables
    width = cos.shape[-1]
    if x.shape[2] <= FEW and x.stride(3) == 1 and (kernels := native.serves(x, cos, sin)) is not None:
        return native.rotate(kernels, x, cos, sin, interleaved)
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], tables), x[..., width:]), -1)
    partners = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if interleaved else x.roll(width // 2, -1)
    return torch.addcmul(x * cos, partners, sin)


def sinusoids(
    positions: Int[Tensor, "#batch time"], dim: int, halves: bool = False
) -> Float[Tensor, "#batch time dim"]:
    """What the first Transformer adds to its embeddings (Vaswani et al., 2017): clock hands from fast to slow.

    Number 2i is sin(position / 10000^(2i / dim)), number 2i + 1 the cosine of the same; or all sines, then all cosines
    (Marian). In float64 where the device has it: at position 1000 float32 angles are off in the fifth digit.
    """
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=wide) / dim
    angles = positions[..., None].to(wide) * 10_000.0**-exponents
    hands = torch.stack((angles.sin(), angles.cos()), -1).float()
    return (hands.mT if halves else hands).flatten(-2)
