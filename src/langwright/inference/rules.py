"""What may come next, however likely it is: forced and banned tokens, and n-grams that may not return."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.base.errors import UserError, check_flag
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
        check_flag("beams", self.beams, self.beams >= 1, "at least 1")
        check_flag("no_repeat_ngram", self.no_repeat_ngram, self.no_repeat_ngram >= 0, "0 or more")
        check_flag("length_penalty", self.length_penalty, abs(self.length_penalty) < 100, "between -100 and 100")
        if self.beams == 1 and (self.length_penalty != 1 or self.early_stopping):
            name = "--early-stopping" if self.early_stopping else f"--length-penalty {self.length_penalty}"
            raise UserError(f"{name}: means something with --beams above 1 only")


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
