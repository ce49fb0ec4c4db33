"""The contiguous KV cache."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class KVCache:
    """Keys and values of all earlier tokens, one contiguous tensor a layer, grown by powers of two.

    It implements `parts.state.State`. All rows have the same number of slots; a row that is shorter starts with
    padding (left padding), whose slots have position -1 and are never attended to.
    """

    def __init__(self, layers: int):
        self.gapless = True
        self.length = 0
        self._layers = layers
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._positions: Tensor | None = None
        self._next: Tensor | None = None

    def place(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None
    ) -> tuple[Int[Tensor, "batch time"], Sequence[Int[Tensor, "batch keys"]]]:
        """Positions of the new tokens, and of every key each layer will see (see `parts.state.State`)."""
        batch, time = ids.shape
        if self._positions is None or self._next is None:
            self._positions = torch.full((batch, 0), -1, dtype=torch.long, device=ids.device)
            self._next = torch.zeros(batch, dtype=torch.long, device=ids.device)
        if mask is None:
            query = self._next[:, None] + torch.arange(time, device=ids.device)
            new = query
            self._next = self._next + time
        else:
            self.gapless = False
            query = (self._next[:, None] + mask.long().cumsum(1) - 1).clamp(min=0)
            new = query.masked_fill(~mask, -1)
            self._next = self._next + mask.sum(1)
        start, self.length = self.length, self.length + time
        if self._positions.shape[1] < self.length:
            self._positions = _grown(self._positions, 1, self.length)
        self._positions[:, start : self.length] = new
        return query, [self._positions[:, : self.length]] * self._layers

    def extend(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_heads time head_dim"],
        v: Float[Tensor, "batch kv_heads time head_dim"],
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """Remember a layer's new keys and values; return all of its keys and values."""
        if layer == len(self._keys):
            self._keys.append(k[:, :, :0])
            self._values.append(v[:, :, :0])
        if self._keys[layer].shape[2] < self.length:
            self._keys[layer] = _grown(self._keys[layer], 2, self.length)
            self._values[layer] = _grown(self._values[layer], 2, self.length)
        start = self.length - k.shape[2]
        self._keys[layer][:, :, start : self.length] = k
        self._values[layer][:, :, start : self.length] = v
        return self._keys[layer][:, :, : self.length], self._values[layer][:, :, : self.length]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch, in this order: finished sequences leave."""
        self._keys = [x[rows] for x in self._keys]
        self._values = [x[rows] for x in self._values]
        if self._positions is not None and self._next is not None:
            self._positions, self._next = self._positions[rows], self._next[rows]


def _grown(x: Tensor, dim: int, needed: int) -> Tensor:
    """`x` with room for `needed` slots along `dim`, the next power of two; old slots are copied."""
    shape = list(x.shape)
    shape[dim] = max(64, 1 << (needed - 1).bit_length())
    room = x.new_zeros(shape)
    room.narrow(dim, 0, x.shape[dim]).copy_(x)
    return room
