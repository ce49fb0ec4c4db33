"""Beam search: the likeliest whole text instead of the likeliest next token, as `transformers` 5.23 searches.

Each step looks at all continuations of all hypotheses, takes so many of the likeliest that at least `beams` are
unfinished, sets finished ones among the best `beams` aside, and goes on with the likeliest unfinished ones.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.inference.sampling import Search


@dataclass
class Hypotheses:
    """The beams of one prompt.

    Args:
        search: how many, and how they are scored.
        ends: the ids that finish one.

    Attributes:
        live: log p and tokens of those that go on, likeliest first; one without tokens at first.
        done: score and tokens of the finished ones, best first.
        open: whether a better one may still come.
    """

    search: Search
    ends: Collection[int]
    live: list[tuple[float, list[int]]] = field(default_factory=lambda: [(0.0, [])])
    done: list[tuple[float, list[int]]] = field(default_factory=list)
    open: bool = True

    def advance(self, scores: Float[Tensor, "live vocabulary"], left: int) -> list[int]:
        """Take the likeliest continuations in; the live hypothesis that each new one goes on from.

        scores: log p of every next token. left: how many tokens may follow.
        """
        search, size = self.search, scores.shape[1]
        totals = scores + torch.tensor([total for total, _ in self.live], device=scores.device)[:, None]
        best = totals.flatten().topk(min(totals.numel(), max(2, 1 + len(self.ends)) * search.beams))
        found = [
            (total, [*self.live[at // size][1], at % size], at // size)
            for total, at in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if total > -torch.inf
        ]
        if self.open:
            ended = [one[:2] for one in found[: search.beams] if one[1][-1] in self.ends or not left]
            self.done += [(self._score(*one), one[1]) for one in ended]
            self.done = sorted(self.done, key=lambda one: -one[0])[: search.beams]
        going = [one for one in found if one[1][-1] not in self.ends][: search.beams]
        self.live = [one[:2] for one in going]
        if len(self.done) == search.beams:  # over, where at this length the likeliest cannot beat the worst of them
            better = bool(self.live) and self._score(*self.live[0]) > self.done[-1][0]
            self.open &= not search.early_stopping and better
        self.open &= bool(self.live and left)
        return [parent for _, _, parent in going]

    def best(self, count: int) -> list[list[int]]:
        """The tokens of the best so far."""
        return [tokens for _, tokens in [*self.done, *self.live][:count]]

    def _score(self, total: float, tokens: list[int]) -> float:
        return total / len(tokens) ** self.search.length_penalty
