"""The contiguous KV cache."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from langwright.parts.bias import EVERY_SEGMENT, Lowered, Places
from langwright.parts.kernels import attend
from langwright.parts.state import NewTokens, Settings

KeysValues = tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]


class KVCache:
    """Keys and values of all earlier tokens, one contiguous tensor a layer, grown by powers of two.

    It implements `parts.state.State`. All rows have the same number of slots; a row that is shorter starts with
    padding (left padding), whose slots have position -1 and are never attended to. With segments a row may hold
    several texts, and each call may bring any number of tokens of each; tokens of calls without are in segment 0.

    Args:
        layers: how many the stack has.
        own: what layers keep whose mixers bring slots of their own (`Stack.own_slots`), by number.
    """

    def __init__(self, layers: int, own: Mapping[int, Any] = {}):
        self.gapless = True
        self.length = 0
        self._slots = [own[layer] if layer in own else KVSlot(self) for layer in range(layers)]
        self._positions = self._next = self._segments = torch.empty(0)

    def begin(self, new: NewTokens) -> Sequence[Places]:
        """Where the new tokens and all that are held stand (see `parts.state.State`)."""
        if not self.length:
            empty = torch.full((new.batch, 0), -1, dtype=torch.long, device=new.device)
            self._positions, self._segments, self._next = empty, empty, empty.new_zeros(new.batch, 1)
        self.gapless &= new.plain
        if new.segments is None and self._segments.shape[1]:
            new = new._replace(segments=self._positions.new_zeros(new.batch, new.time))
        query, key = new.counted(self._next if new.segments is None else self._following(new.segments))
        self._next = self._next + new.time if new.plain else torch.maximum(self._next, key.amax(1, keepdim=True) + 1)
        start, self.length = self.length, self.length + new.time
        self._positions = _written(self._positions, key, start)
        segments: tuple[Tensor | None, Tensor | None] = None, None
        if new.segments is not None:
            if not self._segments.shape[1]:
                self._segments = torch.zeros_like(self._positions)
            self._segments = _written(self._segments, new.segments, start)
            segments = new.segments, self._segments[:, : self.length]
        return [Places(query, self._positions[:, : self.length], self.gapless, *segments)] * len(self._slots)

    def _following(self, segments: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
        """The position after those that are held of each token's segment."""
        if not self.length:
            return torch.zeros_like(segments)
        held = self._segments[:, None, : self.length]
        if not held.shape[2]:
            held = held.new_zeros(held.shape[0], 1, self.length)
        alike = (segments[:, :, None] == held) | (held == EVERY_SEGMENT)
        return self._positions[:, None, : self.length].masked_fill(~alike, -1).amax(2) + 1

    def slot(self, layer: int) -> Any:
        """What a layer keeps."""
        return self._slots[layer]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch, in this order: finished sequences leave."""
        for slot in self._slots:
            slot.keep(rows)
        self._positions, self._next = self._positions[rows], self._next[rows]
        self._segments = self._segments[rows]


class KVSlot:
    """Keys and values of one layer, with room to grow (see `parts.state.Slot`)."""

    def __init__(self, cache: KVCache):
        self._cache = cache
        self._keys = self._values = torch.empty(0)

    @property
    def keys(self) -> Float[Tensor, "batch kv_heads keys head_dim"]:
        """Of all tokens that are held."""
        return self._keys[:, :, : self._cache.length]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Lowered, settings: Settings) -> Tensor:
        """Attention over all keys so far, the new ones kept."""
        return attend(q, *self.extend(k, v), bias, settings)

    def extend(
        self,
        k: Float[Tensor, "batch kv_heads time head_dim"],
        v: Float[Tensor, "batch kv_heads time head_dim"],
    ) -> KeysValues:
        """Remember new keys and values; return all of them."""
        end = self._cache.length
        if not self._keys.numel():
            self._keys, self._values = k[:, :, :0], v[:, :, :0]
        start = end - k.shape[2]
        self._keys, self._values = _written(self._keys, k, start, 2), _written(self._values, v, start, 2)
        return self._keys[:, :, :end], self._values[:, :, :end]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """See `KVCache.keep`."""
        self._keys, self._values = self._keys[rows], self._values[rows]


def _written(held: Tensor, new: Tensor, start: int, dim: int = 1) -> Tensor:
    """`held` with `new` written from `start` on along `dim`; its room grows to the next power of two."""
    end = start + new.shape[dim]
    if held.shape[dim] < end:
        shape = list(held.shape)
        shape[dim] = max(64, 1 << (end - 1).bit_length())
        room = held.new_zeros(shape)
        room.narrow(dim, 0, held.shape[dim]).copy_(held)
        held = room
    held.narrow(dim, start, new.shape[dim]).copy_(new)
    return held
