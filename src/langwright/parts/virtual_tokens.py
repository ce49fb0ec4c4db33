"""What stands before the first token of every row: soft prompts and prefixes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from langwright.parts.bias import Lowered, Places
from langwright.parts.state import Settings, Slot

KeysOrValues = Float[Tensor, "kv_heads length head_dim"]


@dataclass(frozen=True)
class Prefixed:
    """A slot whose new keys and values begin with those of a prefix, the same for all rows."""

    inner: Slot
    keys: KeysOrValues
    values: KeysOrValues

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Lowered, settings: Settings) -> Tensor:
        """Attention over the prefix too (see `parts.state.Slot`)."""
        k, v = (
            torch.cat((own.to(x.dtype).expand(x.shape[0], -1, -1, -1), x), 2)
            for own, x in ((self.keys, k), (self.values, v))
        )
        return self.inner.attend(q, k, v, bias, settings)


@dataclass(frozen=True)
class VirtualTokens:
    """Slots before the first token, at the positions from 0 on, seen by every token that may look back.

    Args:
        length: how many.
        vectors: [length, dim], embedded there in place of tokens and run through all layers (prompt tuning).
        layers: keys and values of each layer, which are only attended to (prefix tuning).
        stays: whether the hidden states of the vectors stay among the others, as a decoder reads those of its encoder.
    """

    length: int
    vectors: Float[Tensor, "length dim"] | None = None
    layers: Sequence[tuple[KeysOrValues, KeysOrValues]] = ()
    stays: bool = False

    @property
    def dropped(self) -> int:
        """How many hidden states at the front the stack leaves out."""
        return self.length if self.vectors is not None and not self.stays else 0

    def places(self, places: Places) -> Places:
        """Where queries and keys stand: a prefix has no queries."""
        if self.vectors is not None or not self.length:
            return places
        segments = places.query_segments
        segments = None if segments is None else segments[:, self.length :]
        return replace(places, query=places.query[:, self.length :], query_segments=segments)

    def slot(self, layer: int, inner: Any) -> Any:
        """The slot of a layer, with its prefix in front where there is one."""
        return Prefixed(inner, *self.layers[layer]) if self.layers else inner
