"""The arithmetic of LoRA (Hu et al., 2021) and DoRA (Liu et al., 2024) beside one map."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from langwright.adaptation.sides import Answer, Owner, Part
from langwright.parts.heads import LanguageHead, Projection
from langwright.parts.linear import Linear


class LowRank(Part):
    """y = W x + b + scaling * B A x, beside a linear map or the head. `down` is A, `up` is B.

    dropout: on x on its way to A, in training only. magnitude: DoRA's length of each row, None for LoRA: the row of
    W + scaling * B A is brought to that length, its own length being no part of the gradient (section 4.3 there).
    """

    def __init__(
        self,
        down: Float[nn.Parameter, "rank inputs"],
        up: Float[nn.Parameter, "outputs rank"],
        scaling: float,
        dropout: float = 0.0,
        magnitude: Float[nn.Parameter, " outputs"] | None = None,
    ):
        super().__init__()
        self.down, self.up, self.magnitude = down, up, magnitude
        self.scaling, self.dropout = scaling, dropout

    def forward(
        self, x: Float[Tensor, "*batch inputs"], owner: Owner, answer: Answer
    ) -> Float[Tensor, "*batch outputs"]:
        y = answer(x)
        drops = self.training and self.dropout > 0
        dropped = F.dropout(x, self.dropout) if drops else x
        inner = self.scaling * F.linear(dropped, self.down.to(x.dtype))  # scaled where it is narrow
        change = F.linear(inner, self.up.to(x.dtype))
        if self.magnitude is None:
            return y + change
        assert isinstance(owner, Linear | LanguageHead)
        if drops:
            straight = F.linear(dropped, owner.full_weight().to(x.dtype))
        else:
            straight = y if owner.bias is None else y - owner.bias.to(y.dtype)
        scale = self._scale(owner).to(y.dtype)
        return y + (scale - 1) * straight + scale * change

    def merged(
        self, owner: Owner, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"] | None]:
        changed = weight + self.scaling * self.up.float() @ self.down.float()
        return changed if self.magnitude is None else self._scale(owner)[:, None] * changed, bias

    def projection(self, plain: Projection, owner: Owner) -> Projection:
        """One more column for each rank: [x, scaling * A x] and [W, B], which never forms W + scaling * B A."""
        hidden = plain.hidden
        dropped = F.dropout(hidden, self.dropout, self.training)
        inner = self.scaling * F.linear(dropped, self.down.to(hidden.dtype))
        weight = torch.cat((owner.full_weight().to(hidden.dtype), self.up.to(hidden.dtype)), 1)
        if self.magnitude is not None:
            weight = self._scale(owner).to(weight.dtype)[:, None] * weight
        return replace(plain, hidden=torch.cat((hidden, inner), -1), weight=weight)

    def _scale(self, owner: Owner) -> Float[Tensor, " outputs"]:
        """The length that each row is to have over the length it has."""
        assert self.magnitude is not None
        with torch.no_grad():
            lengths = (owner.full_weight().float() + self.scaling * self.up.float() @ self.down.float()).norm(dim=1)
        return self.magnitude.float() / lengths


class LowRankTable(Part):
    """Row i of a token table W plus scaling * (B A)[:, i]. A has a column for each token, B a row for each feature.

    magnitude: DoRA's length of each feature over all tokens, None for LoRA.
    """

    def __init__(
        self,
        down: Float[nn.Parameter, "rank vocabulary"],
        up: Float[nn.Parameter, "dim rank"],
        scaling: float,
        magnitude: Float[nn.Parameter, " dim"] | None = None,
    ):
        super().__init__()
        self.down, self.up, self.magnitude, self.scaling = down, up, magnitude, scaling

    def forward(self, x: Int[Tensor, "batch time"], owner: Owner, answer: Answer) -> Float[Tensor, "batch time dim"]:
        y = answer(x)
        change = F.linear(self.scaling * F.embedding(x, self.down.t()).to(y.dtype), self.up.to(y.dtype))
        return y + change if self.magnitude is None else self._scale(owner).to(y.dtype) * (y + change)

    def merged(
        self, owner: Owner, weight: Float[Tensor, "vocabulary dim"], bias: Tensor | None
    ) -> tuple[Float[Tensor, "vocabulary dim"], Tensor | None]:
        changed = weight + self.scaling * (self.up.float() @ self.down.float()).t()
        return changed if self.magnitude is None else self._scale(owner) * changed, bias

    def _scale(self, owner: Owner) -> Float[Tensor, " dim"]:
        assert self.magnitude is not None
        with torch.no_grad():
            lengths = (owner.full_weight().float() + self.scaling * (self.up.float() @ self.down.float()).t()).norm(
                dim=0
            )
        return self.magnitude.float() / lengths
