"""What a stack keeps between calls, layer by layer, and what an observer asked to see."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.parts.bias import EVERY_SEGMENT, Lowered, Places

Queries = Float[Tensor, "batch heads queries head_dim"]
Keys = Float[Tensor, "batch kv_heads keys head_dim"]
KeysValues = tuple[Keys, Keys]


class Taps:
    """What an observer asked to see, kept by kind and slot.

    A slot is a layer's number: recomputation under activation checkpointing overwrites and never counts twice.
    """

    def __init__(self, *kinds: str):
        self.kinds = frozenset(kinds)
        self._slots: dict[str, dict[int, Tensor]] = {kind: {} for kind in kinds}

    def wants(self, kind: str) -> bool:
        """Whether an observer asked for this kind, so that a part may skip computing it."""
        return kind in self.kinds

    def put(self, kind: str, slot: int, value: Tensor) -> None:
        """Store what a part computed; a second value for a slot replaces the first."""
        self._slots[kind][slot] = value

    def get(self, kind: str) -> list[Tensor]:
        """All values of a kind, in the order of their slots."""
        return [value for _, value in sorted(self._slots[kind].items())]


class Settings(NamedTuple):
    """What a layer asks of attention besides queries, keys, values and bias.

    Args:
        scale: multiplies the products of queries and keys.
        softcap: scores are squeezed into (-softcap, softcap); None leaves them.
        dropout: probability that a weight is dropped; 0 outside training.
        taps: receives the weights, or None where no observer wants them.
        kind, layer: the name and number under which they are kept.
    """

    scale: float
    softcap: float | None = None
    dropout: float = 0.0
    taps: Taps | None = None
    kind: str = "attention"
    layer: int = 0


class NewTokens(NamedTuple):
    """The tokens of one forward pass, before they are embedded.

    Args:
        batch, time: their numbers.
        device: of the inputs.
        mask: [batch, time], true where a token is real; None means all are.
        positions: [batch, time]; None means that each token follows the one before it in its row and segment.
        segments: [batch, time]; tokens see only those of their own segment. None means one segment a row.
    """

    batch: int
    time: int
    device: torch.device
    mask: Tensor | None = None
    positions: Tensor | None = None
    segments: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether shapes alone say where the tokens stand."""
        return self.mask is None and self.positions is None and self.segments is None

    def behind(self, slots: int) -> "NewTokens":
        """The same with so many virtual tokens before them, which every segment sees."""
        if not slots:
            return self
        ahead = (slots, 0)
        positions = self.positions
        if positions is not None:
            first = torch.arange(slots, device=self.device).expand(self.batch, -1)
            positions = torch.cat((first, positions + slots), 1)
        return self._replace(
            time=self.time + slots,
            mask=None if self.mask is None else F.pad(self.mask, ahead, value=True),
            positions=positions,
            segments=None if self.segments is None else F.pad(self.segments, ahead, value=EVERY_SEGMENT),
        )

    def counted(
        self, following: Int[Tensor, "#batch #time"] | int = 0
    ) -> tuple[Int[Tensor, "#batch time"], Int[Tensor, "#batch time"]]:
        """Positions of the tokens as queries (0 or more) and as keys (-1 for padding).

        Args:
            following: the position of the first token of each row, or of each token's segment.
        """
        if self.plain:
            query = following + torch.arange(self.time, device=self.device)[None]
            return query, query
        shape = self.batch, self.time
        real = torch.ones(shape, dtype=torch.bool, device=self.device) if self.mask is None else self.mask
        counted = self.positions
        if counted is None and self.segments is None:
            counted = following + real.long().cumsum(1) - 1
        elif counted is None:
            counted = following + self._rank(real)
        return counted.clamp(min=0), counted.masked_fill(~real, -1)

    def _rank(self, real: Tensor) -> Tensor:
        """How many real tokens of the same segment, or of every segment, stand before each token of its row."""
        assert self.segments is not None
        alike = (self.segments[:, :, None] == self.segments[:, None]) | (self.segments[:, None] == EVERY_SEGMENT)
        return (alike & real[:, None]).tril().sum(2) - 1


class CrossMemory:
    """The encoder's output, for cross-attention (Vaswani et al., 2017).

    Args:
        hidden: the encoder's hidden states.
        mask: true where a token of the source is real; None means all are.
        segments: the pair each token of the source belongs to, where a row packs several.

    Attributes:
        slots: what keeps the keys and values of a layer in place of this object, by layer (`inference/paged.py`).
    """

    def __init__(
        self,
        hidden: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None = None,
        segments: Int[Tensor, "batch source"] | None = None,
    ):
        self.hidden, self.mask, self.segments = hidden, mask, segments
        self.slots: Mapping[int, Slot] = {}

    @property
    def positions(self) -> Int[Tensor, "#batch source"]:
        """Where the keys stand; -1 for padding."""
        counted = torch.arange(self.hidden.shape[1], device=self.hidden.device)[None]
        return counted if self.mask is None else counted.masked_fill(~self.mask, -1)

    def keys_values(self, layer: int, make: Callable[[Tensor], KeysValues]) -> KeysValues:
        """The keys and values of a layer; `make` turns the hidden states into them."""
        return make(self.hidden)


@runtime_checkable
class Slot(Protocol):
    """What one layer keeps between calls, as attention sees it."""

    def attend(self, q: Queries, k: Keys, v: Keys, bias: Lowered, settings: Settings) -> Queries:
        """Keep the new keys and values, and mix the values of all that are kept.

        Args:
            q, k, v: of the new tokens, rotated where positions are rotary.
            bias: who sees whom, lowered over the key positions that `State.begin` gave. `bias.described` is the
                description itself, for a slot with a kernel of its own.
            settings: scale, soft-cap, dropout and taps.
        """
        ...


@runtime_checkable
class State(Protocol):
    """The memory of a stack between calls: the cache of an engine is the usual one (`inference/paged.py`).

    One forward pass calls `begin` once, outside of all that is compiled or recomputed, then `slot` once a layer.
    """

    @property
    def length(self) -> int:
        """Number of tokens that are held; 0 before the first call."""
        ...

    def begin(self, new: NewTokens) -> Places:
        """Where the new tokens, and all keys that they will see, stand.

        Where slots have a kernel of their own `key` may be empty.
        """
        ...

    def slot(self, layer: int) -> Any:
        """What the layer keeps: a `Slot` for attention, and whatever else its mixer works with otherwise."""
        ...
