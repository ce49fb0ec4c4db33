"""What may come next, however likely it is: forced and banned tokens, and n-grams that may not return."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.base.errors import UserError
from langwright.models.model import Frame


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
        if self.beams < 1:
            raise UserError(f"--beams {self.beams}: must be at least 1")
        if self.no_repeat_ngram < 0:
            raise UserError(f"--no-repeat-ngram {self.no_repeat_ngram}: must be 0 or more")
        if not abs(self.length_penalty) < 100:
            raise UserError(f"--length-penalty {self.length_penalty}: must be between -100 and 100")
        if self.beams == 1 and (self.length_penalty != 1 or self.early_stopping):
            name = "--early-stopping" if self.early_stopping else f"--length-penalty {self.length_penalty}"
            raise UserError(f"{name}: means something with --beams above 1 only")


@dataclass(frozen=True)
class Rules:
    """first, last, banned: as in `Frame`. no_repeat_ngram: as in `Search`."""

    no_repeat_ngram: int = 0
    first: int | None = None
    last: int | None = None
    banned: tuple[int, ...] = ()

    @classmethod
    def of(cls, search: Search, frame: Frame | None = None) -> "Rules":
        """The rules of a search, with those of the model's own texts."""
        if frame is None:
            return cls(search.no_repeat_ngram)
        return cls(search.no_repeat_ngram, frame.first, frame.last, frame.banned)

    def apply(
        self, scores: Float[Tensor, " vocabulary"], written: Sequence[int], new: int, left: int
    ) -> Float[Tensor, " vocabulary"]:
        """The scores of the next token: -inf where it may not come, 0 for one that must.

        written: prompt and what followed. new: how many of it were generated. left: how many more may follow this one.
        """
        forced = self.last if not left and self.last is not None else self.first if not new else None
        if forced is not None:
            return torch.full_like(scores, -torch.inf).index_fill(0, torch.tensor([forced], device=scores.device), 0.0)
        barred = [*self.banned, *self._endings(written)]
        if not barred:
            return scores
        return scores.index_fill(0, torch.tensor(barred, device=scores.device), -torch.inf)

    def _endings(self, written: Sequence[int]) -> list[int]:
        """Tokens that would complete an n-gram which is there already."""
        n = self.no_repeat_ngram
        if not n or len(written) < n:
            return []
        start = list(written[len(written) - n + 1 :])
        return [written[i + n - 1] for i in range(len(written) - n + 1) if list(written[i : i + n - 1]) == start]
