"""From logits to the next token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.base.errors import check_flag


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token; below 1 sharpens, above 1 flattens the distribution.
        top_k: only the k likeliest; 0 for all.
        top_p: only the likeliest whose probabilities together reach this (Holtzman et al., 2019).
        min_p: only those at least this share as likely as the likeliest (Nguyen et al., 2024).
        repetition_penalty: divides positive logits of tokens already there, multiplies negative ones; 1 for none
            (CTRL, Keskar et al., 2019).
        seed: of each sequence's own generator.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, wanted in (
            ("temperature", 0 <= self.temperature < math.inf, "0 or more, and finite"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0 and finite"),
            ("seed", 0 <= self.seed < 2**63, "0 or more, and below 2**63"),
        ):
            check_flag(name, getattr(self, name), holds, wanted)


def adjust(
    logits: Float[Tensor, " vocabulary"], sampling: Sampling, seen: Sequence[int]
) -> Float[Tensor, " vocabulary"]:
    """Logits after penalty, temperature and the cuts top-k, top-p and min-p, in that order; cut tokens are -inf.

    seen: the tokens that are there already. Temperature 0 leaves the logits unscaled: the caller takes the largest.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1:
        there = torch.as_tensor(seen, dtype=torch.long, device=logits.device)
        old = logits[there]
        penalised = torch.where(old > 0, old / sampling.repetition_penalty, old * sampling.repetition_penalty)
        logits = logits.scatter(0, there, penalised)
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        ranked, order = logits.sort(descending=True, stable=True)
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
        logits = logits.scatter(0, order, ranked.masked_fill(before >= sampling.top_p, -torch.inf))
    if sampling.min_p > 0:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < sampling.min_p * probabilities.max(), -torch.inf)
    return logits


def choose(
    logits: Float[Tensor, " vocabulary"], sampling: Sampling, seen: Sequence[int], generator: torch.Generator
) -> int:
    """The next token's id. The generator is the sequence's own, so that its neighbours in a batch change nothing.

    Sampling is an exponential race: argmax p / e with e ~ Exp(1) picks each token with probability p.
    """
    adjusted = adjust(logits, sampling, seen)
    if sampling.temperature == 0:
        return int(adjusted.argmax())
    race = torch.empty(adjusted.shape, dtype=torch.float32).exponential_(generator=generator)
    return int((adjusted.softmax(-1).cpu() / race).argmax())
