"""The contiguous KV cache of one batch: the simplest state there is, which the cache of an engine must equal."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from langwright.parts.bias import EVERY_SEGMENT, Lowered, Places
from langwright.parts.kernels import Stateless, attend
from langwright.parts.state import NewTokens, Settings


class KVCache:
    """Keys and values of all earlier tokens, one contiguous tensor a layer.

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
        self._slots = [own[layer] if layer in own else KVSlot(self) for layer in range(layers)]
        self._positions = torch.empty(0)
        self._segments: Tensor | None = None

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

    def slot(self, layer: int) -> Any:
        """What a layer keeps."""
        return self._slots[layer]


class KVSlot:
    """Keys and values of one layer (see `parts.state.Slot`)."""

    def __init__(self, cache: KVCache):
        self._cache, self.keys, self.values = cache, torch.empty(1, 1, 0, 1), torch.empty(1, 1, 0, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Lowered, settings: Settings) -> Tensor:
        """Attention over all keys that are held, the new ones among them; computed again, they are not kept twice."""
        if before := self._cache.length - k.shape[2]:
            k, v = torch.cat((self.keys[:, :, :before], k), 2), torch.cat((self.values[:, :, :before], v), 2)
        self.keys, self.values = k, v
        return attend(q, k, v, bias, settings)
