"""The contiguous KV cache."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from langwright.parts.bias import EVERY_SEGMENT, Lowered, Places
from langwright.parts.kernels import Stateless, attend
from langwright.parts.state import Keys, KeysValues, NewTokens, Settings

NewKeys = Float[Tensor, "batch kv_heads time head_dim"]


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
        self._attends = len(own) < layers
        self._slots = [own[layer] if layer in own else self._new_slot() for layer in range(layers)]
        self._positions = torch.empty(0)
        self._segments: Tensor | None = None

    def _new_slot(self) -> "KVSlot":
        return KVSlot(self)

    def begin(self, new: NewTokens) -> Places:
        """Where the new tokens and all that are held stand (see `parts.state.State`)."""
        if not self._attends:  # nothing asks where earlier tokens stand, and memory does not grow
            self.length += new.time
            return Stateless().begin(new)
        if not self.length:
            self._positions = torch.empty(new.batch, 0, dtype=torch.long, device=new.device)
        if new.segments is None and self._segments is not None:
            new = new._replace(segments=self._positions.new_zeros(new.batch, new.time))
        if new.segments is not None and self._segments is None:
            self._segments = torch.zeros_like(self._positions)
        query, key = new.counted(self._following(new.segments))
        self.gapless &= new.plain
        self.length += new.time
        self._positions = torch.cat((self._positions, key.expand(new.batch, -1)), 1)
        if self._segments is not None and new.segments is not None:
            self._segments = torch.cat((self._segments, new.segments), 1)
        return Places(query, self._positions, self.gapless, new.segments, self._segments)

    def _following(self, segments: Int[Tensor, "batch time"] | None) -> Int[Tensor, "batch #time"] | int:
        """The position after those that are held, of each row or of each token's segment."""
        held = self._positions
        if not self.length or (self.gapless and segments is None):
            return self.length
        if segments is not None:
            assert self._segments is not None
            others = self._segments[:, None]
            held = held[:, None].masked_fill((segments[:, :, None] != others) & (others != EVERY_SEGMENT), -1)
        return held.amax(-1, keepdim=segments is None) + 1

    def pieces(self, time: int) -> list[slice]:
        """A prompt in the pieces that fit: whole."""
        return [slice(0, time)]

    def slot(self, layer: int) -> Any:
        """What a layer keeps."""
        return self._slots[layer]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch, in this order: finished sequences leave."""
        for slot in self._slots:
            slot.keep(rows)
        self._positions = self._positions[rows] if self._attends else self._positions
        self._segments = None if self._segments is None else self._segments[rows]


class KVSlot:
    """Keys and values of one layer, with room to grow (see `parts.state.Slot`)."""

    def __init__(self, cache: Any):
        self._cache = cache
        self._keys = self._values = torch.empty(0)

    @property
    def keys(self) -> Keys:
        """Of all tokens that are held."""
        return self._keys[:, :, : self._cache.length]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Lowered, settings: Settings) -> Tensor:
        """Attention over all keys that are held, the new ones among them."""
        return attend(q, *self.extend(k, v), bias, settings)

    def extend(self, k: NewKeys, v: NewKeys) -> KeysValues:
        """Remember new keys and values; return all of them. Their room grows to the next power of two."""
        end = self._cache.length
        start = end - k.shape[2]
        if not start:
            self._keys, self._values = k[:, :, :0], v[:, :, :0]
        if self._keys.shape[2] < end:
            more = 0, 0, 0, max(64, 1 << (end - 1).bit_length()) - self._keys.shape[2]
            self._keys, self._values = F.pad(self._keys, more), F.pad(self._values, more)
        self._keys.narrow(2, start, k.shape[2]).copy_(k)
        self._values.narrow(2, start, k.shape[2]).copy_(v)
        return self._keys.narrow(2, 0, end), self._values.narrow(2, 0, end)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """See `KVCache.keep`."""
        if self._keys.ndim > 1:  # a layer that reads nothing but the memory of an encoder keeps none
            self._keys, self._values = self._keys[rows], self._values[rows]
