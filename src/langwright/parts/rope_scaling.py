"""How rotary positions are stretched past the length that a model was trained on.

A scaling changes the frequencies of the pairs, fast to slow, under the names that `rope_type` has in config.json. It is
called with frequencies [half], their base `theta` and the length of the document of each token, and gives those to turn
by, for all or for each token. Cosines and sines are multiplied by its `magnitude`, and scores so by its square.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Frequencies = Float[Tensor, " half"]
Scaled = Float[Tensor, "*tokens half"]
Lengths = Int[Tensor, "batch #time"]


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation (Chen et al., 2023): every position is divided by `factor` (rope_type "linear")."""

    factor: float
    magnitude = 1.0

    def __call__(self, frequencies: Frequencies, theta: float, lengths: Lengths) -> Scaled:
        return frequencies / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """The wavelength-dependent slow-down of Llama 3.1 (rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    magnitude = 1.0

    def __call__(self, frequencies: Frequencies, theta: float, lengths: Lengths) -> Scaled:
        turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)
        smooth = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - smooth) * frequencies / self.factor + smooth * frequencies


@dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware scaling that grows with the text (bloc97 and emozilla, 2023; rope_type "dynamic").

    Up to `original_max_position_embeddings` nothing changes. A text of s times that length divides the slowest
    frequency by factor * s - (factor - 1), leaves the fastest alone, and those between by a power of it. The length
    ends with the newest position in this call: with a cache, earlier keys stay as they were turned.
    """

    factor: float
    original_max_position_embeddings: int
    magnitude = 1.0

    def __call__(self, frequencies: Frequencies, theta: float, lengths: Lengths) -> Scaled:
        length = lengths[..., None].clamp(min=self.original_max_position_embeddings)
        growth = self.factor * length / self.original_max_position_embeddings - (self.factor - 1)
        return frequencies * growth ** -torch.linspace(0, 1, frequencies.shape[-1], device=frequencies.device)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al., 2024; rope_type "yarn"): fast pairs left alone, slow ones interpolated, scores sharpened.

    Pairs that turn more than `beta_fast` times within the original length keep their frequency, those below `beta_slow`
    have it divided by `factor`, and a ramp over the pairs' numbers lies between; `truncate` rounds its ends outward.
    attention_factor: the magnitude, 0.1 ln(factor) + 1 unless given; with `mscale` and `mscale_all_dim` the ratio of
    two such numbers (DeepSeek).
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._sharper(self.mscale) / self._sharper(self.mscale_all_dim)
        return self._sharper(1.0)

    def _sharper(self, weight: float) -> float:
        return 0.1 * weight * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def __call__(self, frequencies: Frequencies, theta: float, lengths: Lengths) -> Scaled:
        half = frequencies.shape[-1]
        first, last = (self._pair(turns, theta, half) for turns in (self.beta_fast or 32, self.beta_slow or 1))
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * half - 1)
        ramp = torch.arange(half, device=frequencies.device) - first
        slow = (ramp / (last - first if last != first else 0.001)).clamp(0, 1)
        return frequencies / self.factor * slow + frequencies * (1 - slow)

    def _pair(self, turns: float, theta: float, half: int) -> float:
        """The number of the pair, not rounded, that turns so often within the original length."""
        return half * math.log(self.original_max_position_embeddings / (turns * 2 * math.pi)) / math.log(theta)


Scaling = LinearScaling | Llama3Scaling | DynamicScaling | YarnScaling
