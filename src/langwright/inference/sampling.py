"""From logits to the next token: how it is drawn or searched, and what may come, however likely it is.

All functions work on the rows of a batch at once; what a row gets depends on nothing but the row itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from langwright.base.errors import UserError, check_flag
from langwright.models.model import Frame

Logits = Float[Tensor, "rows vocabulary"]
RANKED = 1024
"""Of so many of the likeliest tokens top-p looks first; seldom does it need more, and sorting all takes 20 times as
long."""


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
        typical_p: only those whose surprise is closest to the entropy, until their probabilities together reach this
            (Meister et al., 2023).
        presence_penalty: taken from the logit of each token that was written already.
        frequency_penalty: the same for every time that it was written.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        sharp = 0 < self.temperature < 1e-6  # float32 could not hold the logits
        for name, holds, wanted in (
            ("temperature", 0 <= self.temperature < math.inf and not sharp, "0, or at least 1e-6 and finite"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", 1e-6 <= self.repetition_penalty <= 1e6, "between 1e-6 and 1e6"),
            ("seed", 0 <= self.seed < 2**63, "0 or more, and below 2**63"),
            ("typical_p", 0 < self.typical_p <= 1, "above 0 and at most 1"),
            ("presence_penalty", abs(self.presence_penalty) <= 100, "between -100 and 100"),
            ("frequency_penalty", abs(self.frequency_penalty) <= 100, "between -100 and 100"),
        ):
            check_flag(name, getattr(self, name), holds, wanted)

    @property
    def penalises(self) -> bool:
        """Whether what is written changes what comes."""
        return self.repetition_penalty != 1 or bool(self.presence_penalty or self.frequency_penalty)


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


@dataclass(frozen=True)
class Rules:
    """What may come next, however likely it is.

    Args:
        bias: added to the logits of these tokens.
        banned: tokens that never come.
        forced: the tokens that every text begins with.
        last: the token that a text ends with when it reaches its limit.
        no_repeat_ngram: no sequence of this many tokens comes twice; 0 for no such rule.
    """

    bias: Mapping[int, float] = field(default_factory=dict)
    banned: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()
    last: int | None = None
    no_repeat_ngram: int = 0

    @classmethod
    def of(cls, frame: Frame | None, no_repeat_ngram: int = 0) -> "Rules":
        """Those of a model whose targets begin and end in a certain way."""
        if frame is None:
            return cls(no_repeat_ngram=no_repeat_ngram)
        first = () if frame.first is None else (frame.first,)
        return cls(banned=frame.banned, forced=first, last=frame.last, no_repeat_ngram=no_repeat_ngram)

    def next(self, new: int, left: int) -> int | None:
        """The token that must come, where one must; see `apply_rules`."""
        if not left and self.last is not None:
            return self.last
        return self.forced[new] if new < len(self.forced) else None


def apply_rules(
    scores: Logits, rules: Sequence[Rules], written: Sequence[Sequence[int]], new: Sequence[int], left: Sequence[int]
) -> Logits:
    """The scores of the next tokens: -inf where one may not come; 0 for one that must, and -inf for all others.

    Args:
        scores: of every token.
        rules: of each row.
        written: prompt and what followed.
        new: how many of it were generated.
        left: how many more may follow the next one.
    """
    if all(rule == Rules() for rule in rules):
        return scores
    scores, device = scores.clone(), scores.device
    for row, (rule, ids) in enumerate(zip(rules, written, strict=True)):
        forced = rule.next(new[row], left[row])
        if forced is not None:
            scores[row] = -torch.inf
            scores[row, forced] = 0.0
            continue
        if rule.bias:
            tokens, values = zip(*rule.bias.items(), strict=True)
            scores[row, torch.tensor(tokens, device=device)] += torch.tensor(values, device=device, dtype=scores.dtype)
        barred = torch.cat((torch.tensor(rule.banned, dtype=torch.long), _endings(ids, rule.no_repeat_ngram)))
        scores[row, barred.to(device)] = -torch.inf
    return scores


def _endings(written: Sequence[int], n: int) -> Int[Tensor, " endings"]:
    """Tokens that would complete an n-gram which is there already."""
    if not n or len(written) < n:
        return torch.empty(0, dtype=torch.long)
    ids = torch.tensor(written)
    grams, start = ids.unfold(0, n, 1), ids[len(ids) - n + 1 :]
    return grams[(grams[:, :-1] == start).all(1), -1]


def adjust(
    logits: Logits, samplings: Sequence[Sampling], written: Sequence[Sequence[int]], new: Sequence[int]
) -> Logits:
    """Logits after penalties, temperature and the cuts top-k, top-p, min-p and typical, in that order; -inf is cut.

    Temperature 0 leaves the logits unscaled: the caller takes the largest.

    Args:
        logits: of every token.
        samplings: of each row.
        written: the tokens that are there already, which the repetition penalty counts.
        new: how many of them were generated, which the presence and the frequency penalty count.
    """
    logits = logits.float()
    penalised = [row for row, sampling in enumerate(samplings) if sampling.penalises]
    logits = logits.clone() if penalised else logits
    for row in penalised:
        _penalise(logits[row], samplings[row], written[row], new[row])
    for name, neutral, cut in _CUTS:
        settings = [getattr(sampling, name) for sampling in samplings]
        rows = [row for row, value in enumerate(settings) if value != neutral]
        if rows:
            chosen = torch.tensor(rows, device=logits.device)
            values = torch.tensor([settings[row] for row in rows], device=logits.device, dtype=torch.float64)
            logits = logits.index_copy(0, chosen, cut(logits[chosen], values[:, None]))
    return logits


def _penalise(logits: Float[Tensor, " vocabulary"], sampling: Sampling, ids: Sequence[int], new: int) -> None:
    """Change the logits of one row by its penalties."""
    if sampling.repetition_penalty != 1:
        there = torch.tensor(ids, dtype=torch.long, device=logits.device)
        old = logits[there]
        logits[there] = torch.where(old > 0, old / sampling.repetition_penalty, old * sampling.repetition_penalty)
    if new and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = torch.tensor(ids[-new:], device=logits.device).unique(return_counts=True)
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts


Settings = Float[Tensor, "rows 1"]


def _temper(logits: Logits, temperature: Settings) -> Logits:
    return logits / temperature.where(temperature > 0, 1).to(logits.dtype)


def _top_k(logits: Logits, k: Settings) -> Logits:
    places = k.long().clamp(max=logits.shape[1]) - 1
    return logits.masked_fill(logits < logits.topk(int(places.max()) + 1).values.gather(1, places), -torch.inf)


def _top_p(logits: Logits, p: Settings) -> Logits:
    likely = logits.softmax(-1)
    ranked, order = likely.topk(min(RANKED, likely.shape[1]))
    few = (ranked.sum(-1, keepdim=True) > p + 1e-3)[:, 0]
    cut = _cut_tail(logits, ranked, order, p)
    if not few.all():
        ranked, order = likely[~few].sort(descending=True, stable=True)
        cut[~few] = _cut_tail(logits[~few], ranked, order, p[~few])
    return cut


def _cut_tail(logits: Logits, ranked: Tensor, order: Tensor, p: Settings) -> Logits:
    """Keep the first of the ranked tokens until their probabilities reach p, one at least."""
    before = ranked.cumsum(-1) - ranked
    kept = (before < p) | (before <= 0)
    return torch.full_like(logits, -torch.inf).scatter(1, order, logits.gather(1, order).masked_fill(~kept, -torch.inf))


def _min_p(logits: Logits, share: Settings) -> Logits:
    likely = logits.softmax(-1)
    return logits.masked_fill(likely < share * likely.amax(-1, keepdim=True), -torch.inf)


def _typical(logits: Logits, mass: Settings) -> Logits:
    surprise = -logits.log_softmax(-1)
    likely = (-surprise).exp()
    entropy = (likely * surprise).nansum(-1, keepdim=True)
    far, order = (surprise - entropy).abs().sort(-1)
    last = (likely.gather(1, order).cumsum(-1) < mass).sum(-1, keepdim=True).clamp(max=far.shape[1] - 1)
    return logits.masked_fill((surprise - entropy).abs() > far.gather(1, last), -torch.inf)


_CUTS: tuple[tuple[str, float, Callable[[Logits, Settings], Logits]], ...] = (
    ("temperature", 1.0, _temper),
    ("top_k", 0, _top_k),
    ("top_p", 1.0, _top_p),
    ("min_p", 0.0, _min_p),
    ("typical_p", 1.0, _typical),
)
"""Field, the value that changes nothing, and what it does, in the order of `transformers`."""


def draw(logits: Logits, samplings: Sequence[Sampling], generators: Sequence[torch.Generator]) -> list[int]:
    """The ids of the next tokens. A generator is its sequence's own, so that neighbours in a batch change nothing.

    A number that is uniform below the sum of all probabilities falls into the part of a token as often as it is likely.
    """
    tokens: list[int] = logits.argmax(-1).tolist()
    rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if rows:
        sums = logits[torch.tensor(rows, device=logits.device)].softmax(-1).cpu().cumsum(-1, dtype=torch.float64)
        shares = torch.stack([torch.rand(1, generator=generators[row], dtype=torch.float64) for row in rows])
        below = torch.minimum(shares * sums[:, -1:], sums[:, -1:].nextafter(torch.zeros(1, dtype=torch.float64)))
        for row, token in zip(rows, torch.searchsorted(sums, below, right=True)[:, 0].tolist(), strict=True):
            tokens[row] = token
    return tokens
