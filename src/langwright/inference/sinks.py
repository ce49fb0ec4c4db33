"""A KV cache that never grows past a bound: attention sinks and a recent window (StreamingLLM, Xiao et al., 2024)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from langwright.base.errors import UserError
from langwright.inference.blocks import Blocks
from langwright.inference.cache import KVCache, KVSlot, NewKeys
from langwright.inference.continuation import Continuation, Piece
from langwright.inference.memory import Hidden, Ids, Real
from langwright.models.model import Model
from langwright.parts.bias import Places
from langwright.parts.positions import Rope, Tables, rotate
from langwright.parts.state import CrossMemory, KeysValues, NewTokens


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
        refusals = {
            "a window has 2 tokens at least, sinks are 0 or more": self.window < 2 or self.sinks < 0,
            f"{model.family} is an encoder-decoder, which writes texts of its own": bool(model.encoders),
            f"{model.family} remembers a text in a fixed size and needs no window; leave it out": model.body.carries,
            "a window would forget the virtual tokens of this adapter": model.body.adapter is not None,
            f"{model.family} learns its positions; take a model with RoPE or ALiBi": model.body.max_positions,
            f"together they do not fit the model's context of {model.context} tokens": self.window + self.sinks
            > (model.context or math.inf),
        }
        for reason, holds in refusals.items():
            if holds:
                raise UserError(f"--window {self.window} --sinks {self.sinks}: {reason}")
        body = model.body
        return SinkCache(len(body.blocks), self.sinks, self.window, body.rope, body.own_slots())


class Sinks:
    """The memory of texts that go on without end: a `SinkCache` for each, which is counted in blocks and lies apart."""

    keeps = True

    def __init__(self, streaming: Streaming, model: Model, texts: int, size: int):
        self._streaming, self._model = streaming, model
        streaming.cache(model)  # refuses what cannot stream
        held = Blocks(0, size).needed(streaming.sinks + streaming.window)
        self.blocks = Blocks(texts * held, size), Blocks(0, size)

    def spans(self, text: Continuation, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """What is held at the most."""
        return (0, min(stop, self._streaming.sinks + self._streaming.window)), (0, 0)

    def read(self, ids: Ids, real: Real | None, pieces: Sequence[Piece], encoded: CrossMemory | None) -> Hidden:
        """One text after the other, each cut into pieces that fit (see `Memory`)."""
        rows = [self._one(row[None, : piece.length], piece.text) for row, piece in zip(ids, pieces, strict=True)]
        return pad_sequence(rows, batch_first=True)

    def _one(self, ids: Ids, text: Continuation) -> Float[Tensor, "time dim"]:
        text.state = text.state or self._streaming.cache(self._model)
        pieces = text.state.pieces(ids.shape[1])
        return torch.cat([self._model.body(ids[:, piece], state=text.state)[0] for piece in pieces])

    def prepare(self, copies: Sequence[tuple[int, int]]) -> None:
        """A text that goes on from another has a copy of its state (`Scheduler.share`)."""


class SinkCache(KVCache):
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
        super().__init__(layers, own)
        self.sinks, self.window = sinks, window
        self._rope = rope
        self.kept: Tensor | None = None  # which slots of the earlier ones stay, while a forward pass is on
        self.tables: tuple[Tables, Tables] | None = None  # of the new tokens, and of all

    def _new_slot(self) -> "SinkSlot":
        return SinkSlot(self)

    def pieces(self, time: int) -> list[slice]:
        """A prompt cut so that each piece fits: what the cache holds, then half a window at a time."""
        step = max(1, self.window // 2)
        begins = [0, *range(self.sinks + self.window, time, step)]
        return [slice(begin, end) for begin, end in zip(begins, [*begins[1:], time], strict=True)]

    def begin(self, new: NewTokens) -> Places:
        """Make room, then number the slots of each row from its first real token (see `parts.state.State`)."""
        if new.positions is not None or new.segments is not None:
            raise ValueError("a window with sinks numbers its tokens itself: it takes neither positions nor segments")
        added = torch.ones(new.batch, new.time, dtype=torch.bool, device=new.device) if new.mask is None else new.mask
        real = self._positions >= 0 if self.length else added[:, :0]
        self.kept = self._make_room(real, new.time)
        if self.kept is not None:
            real = real.gather(1, self.kept)
        real = torch.cat((real, added), 1)
        counted = (real.long().cumsum(1) - 1).clamp(min=0)
        query, self.length = counted[:, -new.time :], real.shape[1]
        if self._rope is not None:
            self.tables = self._rope.tables(query, torch.float32), self._rope.tables(counted, torch.float32)
        self._positions = counted.masked_fill(~real, -1)
        return Places(query, self._positions, gapless=bool(real.all()))

    def _make_room(self, real: Tensor, new: int) -> Tensor | None:
        """Which slots stay, [batch, kept]: padding goes first, then the oldest tokens after the sinks."""
        drop = real.shape[1] + new - self.sinks - self.window
        if drop <= 0:
            return None
        if drop > real.shape[1] - self.sinks:
            raise ValueError(f"{new} tokens at once do not fit a window of {self.window}: feed them in pieces")
        slots, first = torch.arange(real.shape[1], device=real.device), (~real).sum(1, keepdim=True)
        sinks = (slots >= first) & (slots < first + self.sinks)
        order = torch.where(sinks, real.shape[1], slots)  # padding is at the left
        return order.argsort(1)[:, drop:].sort(1).values


class SinkSlot(KVSlot):
    """Keys before rotation, and values, of one layer."""

    def extend(self, k: NewKeys, v: NewKeys) -> KeysValues:
        """Remember new keys, turned back to no position; return all keys, turned to their present places."""
        dtype, tables = k.dtype, self._cache.tables
        if tables is not None:
            k = rotate(k.float(), _backwards(tables[0])).to(dtype)
        if self._keys.numel():
            k, v = torch.cat((self._staying(self._keys), k), 2), torch.cat((self._staying(self._values), v), 2)
        self._keys, self._values = k, v
        return k if tables is None else rotate(k.float(), tables[1]).to(dtype), v

    def _staying(self, x: Tensor) -> Tensor:
        if self._cache.kept is None:
            return x
        return x.gather(2, self._cache.kept[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _backwards(tables: Tables) -> Tables:
    """The rotation that undoes one, its magnitude included."""
    size = tables.cos.square() + tables.sin.square()
    return tables._replace(cos=tables.cos / size, sin=-tables.sin / size)
