"""A KV cache that never grows past a bound: attention sinks and a recent window (StreamingLLM, Xiao et al., 2024)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.bias import Lowered, Places
from langwright.parts.kernels import attend
from langwright.parts.positions import Rope, Tables, rotate
from langwright.parts.state import NewTokens, Settings


@dataclass(frozen=True)
class Streaming:
    """What a model remembers when it goes on without end.

    Args:
        window: the most recent tokens that are kept, the newest among them.
        sinks: how many of the first ones are kept too.
    """

    window: int
    sinks: int = 4

    def cache(self, model: Model) -> "SinkCache":
        """An empty cache for a model; UserError where the model or these sizes do not allow one."""
        if self.window < 2 or self.sinks < 0:
            raise UserError(
                f"--window {self.window} --sinks {self.sinks}: a window has 2 tokens at least, sinks are 0 or more"
            )
        if model.encoders:
            raise UserError(
                f"--window: {model.family} is an encoder-decoder, which writes texts of its own; leave it out"
            )
        if model.body.adapter is not None:
            raise UserError(
                "--window: this adapter stands before the text with virtual tokens, which a window would forget; "
                "leave it out"
            )
        if model.body.max_positions is not None:
            raise UserError(
                f"--window: {model.family} learns its positions, which cannot be given anew to tokens that were read; "
                "take a model with RoPE or ALiBi"
            )
        if self.window + self.sinks > model.context:
            raise UserError(
                f"--window {self.window} and --sinks {self.sinks} do not fit the model's context "
                f"of {model.context} tokens"
            )
        body = model.body
        return SinkCache(len(body.blocks), self.sinks, self.window, body.rope, body.own_slots())


class SinkCache:
    """Keys and values of the first `sinks` tokens of each row and of its last ones, `sinks + window` at most.

    Positions are places in the cache, not in the text: what was left out leaves no gap, and no position is higher than
    the model was trained on. Keys are therefore kept as they were before rotation and turned to their present place
    each time. It implements `parts.state.State`.

    Args:
        layers: how many the stack has.
        sinks, window: the first and the last tokens that are kept.
        rope: what turns the stack's queries and keys.
        own: what layers keep whose mixers bring slots of their own, by number.
    """

    def __init__(self, layers: int, sinks: int, window: int, rope: Rope | None = None, own: Mapping[int, Any] = {}):
        self.sinks, self.window = sinks, window
        self._rope = rope
        self._slots = [own[layer] if layer in own else SinkSlot(self) for layer in range(layers)]
        self._real = torch.empty(0, 0, dtype=torch.bool)
        self.kept: Tensor | None = None  # which slots of the earlier ones stay, while a forward pass is on
        self.tables: tuple[Tables, Tables] | None = None  # of the new tokens, and of all

    @property
    def length(self) -> int:
        """How many slots are held."""
        return self._real.shape[1]

    def pieces(self, time: int) -> list[slice]:
        """A prompt cut so that each piece fits: what the cache holds, then half a window at a time."""
        step = max(1, self.window // 2)
        begins = [0, *range(self.sinks + self.window, time, step)]
        return [slice(begin, end) for begin, end in zip(begins, [*begins[1:], time], strict=True)]

    def begin(self, new: NewTokens) -> Sequence[Places]:
        """Make room, then number the slots of each row from its first real token (see `parts.state.State`)."""
        if new.positions is not None or new.segments is not None:
            raise ValueError("a window with sinks numbers its tokens itself: it takes neither positions nor segments")
        added = torch.ones(new.batch, new.time, dtype=torch.bool, device=new.device) if new.mask is None else new.mask
        real = self._real if self.length else added[:, :0]
        self.kept = self._make_room(real, new.time)
        if self.kept is not None:
            real = real.gather(1, self.kept)
        self._real = torch.cat((real, added), 1)
        positions = (self._real.long().cumsum(1) - 1).clamp(min=0)
        query = positions[:, real.shape[1] :]
        if self._rope is not None:
            self.tables = self._rope.tables(query, torch.float32), self._rope.tables(positions, torch.float32)
        places = Places(query, positions.masked_fill(~self._real, -1), gapless=bool(self._real.all()))
        return [places] * len(self._slots)

    def _make_room(self, real: Tensor, new: int) -> Tensor | None:
        """Which slots stay, [batch, kept]: padding goes first, then the oldest tokens after the sinks."""
        drop = real.shape[1] + new - self.sinks - self.window
        if drop <= 0:
            return None
        if drop > real.shape[1] - self.sinks:
            raise ValueError(f"{new} tokens at once do not fit a window of {self.window}: feed them in pieces")
        pads = (~real).sum(1, keepdim=True)
        slots = torch.arange(real.shape[1], device=real.device)
        blank = torch.minimum(pads, torch.tensor(drop, device=real.device))
        old = (slots >= pads + self.sinks) & (slots < pads + self.sinks + drop - blank)
        gone = (slots < blank) | old
        return (~gone).nonzero()[:, 1].view(real.shape[0], -1)

    def slot(self, layer: int) -> Any:
        """What a layer keeps."""
        return self._slots[layer]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch, in this order: finished sequences leave."""
        for slot in self._slots:
            slot.keep(rows)
        self._real = self._real[rows]


class SinkSlot:
    """Keys before rotation, and values, of one layer (see `parts.state.Slot`)."""

    def __init__(self, cache: SinkCache):
        self._cache = cache
        self.keys = self._values = torch.empty(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Lowered, settings: Settings) -> Tensor:
        """Attention over sinks and window, the new tokens kept."""
        return attend(q, *self.extend(k, v), bias, settings)

    def extend(
        self,
        k: Float[Tensor, "batch kv_heads time head_dim"],
        v: Float[Tensor, "batch kv_heads time head_dim"],
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """Remember new keys, turned back to no position; return all keys, turned to their present places."""
        dtype, tables = k.dtype, self._cache.tables
        if tables is not None:
            k = rotate(k.float(), _backwards(tables[0])).to(dtype)
        if self.keys.numel():
            k, v = torch.cat((self._staying(self.keys), k), 2), torch.cat((self._staying(self._values), v), 2)
        self.keys, self._values = k, v
        return k if tables is None else rotate(k.float(), tables[1]).to(dtype), v

    def _staying(self, x: Tensor) -> Tensor:
        if self._cache.kept is None:
            return x
        return x.gather(2, self._cache.kept[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """See `SinkCache.keep`."""
        self.keys, self._values = self.keys[rows], self._values[rows]


def _backwards(tables: Tables) -> Tables:
    """The rotation that undoes one, its magnitude included."""
    size = tables.cos.square() + tables.sin.square()
    return tables._replace(cos=tables.cos / size, sin=-tables.sin / size)
