"""What stands before the first token of every row: soft prompts and prefixes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.parts.bias import Places

ALL = -1
"""The segment that tokens of no document are in."""


@dataclass(frozen=True)
class VirtualTokens:
    """Slots before the first token, at the positions from 0 on, seen by every token that may look back.

    vectors: what is embedded there in place of tokens; it runs through all layers (prompt tuning).
    layers: keys and values of each layer, which are attended to and run through nothing (prefix tuning).
    stays: whether the hidden states of the vectors stay among the others, as a decoder reads those of its encoder.
    """

    length: int
    vectors: Float[Tensor, "length dim"] | None = None
    layers: Sequence[tuple[Float[Tensor, "kv_heads length head_dim"], Float[Tensor, "kv_heads length head_dim"]]] = ()
    stays: bool = False

    @property
    def dropped(self) -> int:
        """How many hidden states at the front are nobody's."""
        return self.length if self.vectors is not None and not self.stays else 0

    def slots(
        self,
        ids: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None,
        positions: Int[Tensor, "batch time"] | None,
        segments: Int[Tensor, "batch time"] | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """The same with the slots in front; their ids stand for nothing."""
        ahead = (self.length, 0)
        if positions is not None:
            first = torch.arange(self.length, device=ids.device).expand(ids.shape[0], -1)
            positions = torch.cat((first, positions + self.length), 1)
        return (
            F.pad(ids, ahead),
            None if mask is None else F.pad(mask, ahead, value=True),
            positions,
            None if segments is None else F.pad(segments, ahead, value=ALL),
        )

    def places(self, places: Sequence[Places], query: Tensor) -> tuple[list[Places], Tensor]:
        """Places of such slots: every segment sees them, and without vectors nothing is asked from them."""
        first = 0 if self.vectors is not None else self.length
        made: dict[int, Places] = {}
        for place in places:
            if id(place) not in made:
                asked = None if place.query_segments is None else place.query_segments[:, first:]
                made[id(place)] = replace(place, query=place.query[:, first:], query_segments=asked, common=self.length)
        return [made[id(place)] for place in places], query[:, first:]

    def extend(
        self,
        layer: int,
        further: Any,
        k: Float[Tensor, "batch kv_heads time head_dim"],
        v: Float[Tensor, "batch kv_heads time head_dim"],
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """A layer's keys and values with those of the prefix in front; `further` is the memory they go to, or None."""
        k, v = (
            torch.cat((own.to(x.dtype).expand(x.shape[0], -1, -1, -1), x), 2)
            for own, x in zip(self.layers[layer], (k, v), strict=True)
        )
        return (k, v) if further is None else further(k, v)
