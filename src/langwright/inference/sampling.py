"""From logits to the next token: how it is drawn or searched, and what may come, however likely it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.base.errors import UserError, check_flag
from langwright.models.model import Frame


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
        sharp = 0 < self.temperature < 1e-6  # float32 could not hold the logits
        for name, holds, wanted in (
            ("temperature", 0 <= self.temperature < math.inf and not sharp, "0, or at least 1e-6 and finite"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", 1e-6 <= self.repetition_penalty <= 1e6, "between 1e-6 and 1e6"),
            ("seed", 0 <= self.seed < 2**63, "0 or more, and below 2**63"),
        ):
            check_flag(name, getattr(self, name), holds, wanted)


@dataclass(frozen=True)
class Search:
    """How the continuation is searched, beside the draw of single tokens.

    Args:
        beams: hypotheses kept side by side; 1 keeps one. The likeliest whole text wins, and nothing is drawn.
        length_penalty: a finished hypothesis counts log p / length ** penalty; above 0 favours long ones.
        no_repeat_ngram: no sequence of this many tokens comes twice; 0 for no such rule.
        early_stopping: end as soon as there are `beams` finished hypotheses, without looking for better ones.
    """

    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        check_flag("beams", self.beams, 1 <= self.beams <= 10_000, "at least 1 and at most 10,000")
        check_flag("no_repeat_ngram", self.no_repeat_ngram, self.no_repeat_ngram >= 0, "0 or more")
        check_flag("length_penalty", self.length_penalty, abs(self.length_penalty) < 100, "between -100 and 100")
        if self.beams == 1 and (self.length_penalty != 1 or self.early_stopping):
            name = "--early-stopping" if self.early_stopping else f"--length-penalty {self.length_penalty}"
            raise UserError(f"{name}: means something with --beams above 1 only")


def adjust(
    logits: Float[Tensor, " vocabulary"], sampling: Sampling, seen: Sequence[int]
) -> Float[Tensor, " vocabulary"]:
    """Logits after penalty, temperature and the cuts top-k, top-p and min-p, in that order; cut tokens are -inf.

    seen: the tokens that are there already. Temperature 0 leaves the logits unscaled: the caller takes the largest.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1:
        there = torch.tensor(seen, dtype=torch.long, device=logits.device)
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
        logits = logits.scatter(0, order, ranked.masked_fill((before >= sampling.top_p) & (before > 0), -torch.inf))
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


def apply_rules(
    scores: Float[Tensor, " vocabulary"],
    search: Search,
    frame: Frame | None,
    written: Sequence[int],
    new: int,
    left: int,
) -> Float[Tensor, " vocabulary"]:
    """The scores of the next token: -inf where it may not come, 0 for one that must.

    Args:
        scores: of every token.
        search: its n-grams that may not return.
        frame: the tokens that the model forces or bans.
        written: prompt and what followed.
        new: how many of it were generated.
        left: how many more may follow this one.
    """
    first, last, banned = (None, None, ()) if frame is None else (frame.first, frame.last, frame.banned)
    forced = last if not left and last is not None else first if not new else None
    if forced is not None:
        return torch.full_like(scores, -torch.inf).index_fill(0, torch.tensor([forced], device=scores.device), 0.0)
    barred = [*banned, *_endings(written, search.no_repeat_ngram)]
    if not barred:
        return scores
    return scores.index_fill(0, torch.tensor(barred, device=scores.device), -torch.inf)


def _endings(written: Sequence[int], n: int) -> list[int]:
    """Tokens that would complete an n-gram which is there already."""
    if not n:
        return []
    start = list(written[len(written) - n + 1 :])
    return [written[i + n - 1] for i in range(len(written) - n + 1) if list(written[i : i + n - 1]) == start]
