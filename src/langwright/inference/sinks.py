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
from langwright.inference.continuation import Continuation, Piece
from langwright.inference.memory import Hidden, Ids, Real, as_at_first
from langwright.models.model import Model
from langwright.parts.bias import Lowered, Places
from langwright.parts.kernels import attend
from langwright.parts.positions import Rope, Tables, rotate
from langwright.parts.state import CrossMemory, KeysValues, NewTokens, Queries, Settings

NewKeys = Float[Tensor, "batch kv_heads time head_dim"]


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

    keeps, reuses, rewrites = True, False, False

    def __init__(self, streaming: Streaming, model: Model, texts: int, size: int):
        self._streaming, self._model = streaming, model
        streaming.cache(model)  # refuses what cannot stream
        held = -(-(streaming.sinks + streaming.window) // size)
        self.blocks = Blocks(texts * held, size)

    def ahead(self, text: Continuation) -> int:
        """None in blocks."""
        return 0

    def reach(self, text: Continuation, most: int) -> int:
        """What a token leaves depends on what is forgotten by then."""
        return as_at_first(text)

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


class SinkCache:
    """Keys and values of the first `sinks` tokens of one text and of its last ones, `sinks + window` at most.

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
        self.sinks, self.window, self.length = sinks, window, 0
        self._rope = rope
        self._slots = [own[layer] if layer in own else SinkSlot(self) for layer in range(layers)]
        self.dropped = 0  # of the tokens after the sinks, while a forward pass is on
        self.tables: tuple[Tables, Tables] | None = None  # of the new tokens, and of all

    def slot(self, layer: int) -> Any:
        """What a layer keeps."""
        return self._slots[layer]

    def pieces(self, time: int) -> list[slice]:
        """A prompt cut so that each piece fits: what the cache holds, then half a window at a time."""
        step = max(1, self.window // 2)
        begins = [0, *range(self.sinks + self.window, time, step)]
        return [slice(begin, end) for begin, end in zip(begins, [*begins[1:], time], strict=True)]

    def begin(self, new: NewTokens) -> Places:
        """Make room, then number what is kept (see `parts.state.State`)."""
        if new.batch != 1 or not new.plain:
            raise ValueError("a window with sinks numbers the tokens of one text itself")
        self.dropped = max(0, self.length + new.time - self.sinks - self.window)
        if self.dropped > max(0, self.length - self.sinks):
            raise ValueError(f"{new.time} tokens at once do not fit a window of {self.window}: feed them in pieces")
        self.length += new.time - self.dropped
        key = torch.arange(self.length, device=new.device)[None]
        query = key[:, -new.time :]
        if self._rope is not None:
            self.tables = self._rope.tables(query, torch.float32), self._rope.tables(key, torch.float32)
        return Places(query, key, gapless=True)


class SinkSlot:
    """Keys before rotation, and values, of one layer (see `parts.state.Slot`)."""

    def __init__(self, cache: SinkCache):
        self._cache = cache
        self.keys = self.values = torch.empty(0)

    def attend(self, q: Queries, k: NewKeys, v: NewKeys, bias: Lowered, settings: Settings) -> Queries:
        """Attention over all that is kept, what is new among it."""
        return attend(q, *self.extend(k, v), bias, settings)

    def extend(self, k: NewKeys, v: NewKeys) -> KeysValues:
        """Remember new keys, turned back to no position; return all keys, turned to their present places."""
        dtype, tables = k.dtype, self._cache.tables
        if tables is not None:
            k = rotate(k.float(), _backwards(tables[0])).to(dtype)
        if self.keys.numel():
            pairs = (self.keys, k), (self.values, v)
            kept = self._cache.sinks, self._cache.sinks + self._cache.dropped
            k, v = (torch.cat((old[:, :, : kept[0]], old[:, :, kept[1] :], new), 2) for old, new in pairs)
        self.keys, self.values = k, v
        return k if tables is None else rotate(k.float(), tables[1]).to(dtype), v


def _backwards(tables: Tables) -> Tables:
    """The rotation that undoes one, its magnitude included."""
    size = tables.cos.square() + tables.sin.square()
    return tables._replace(cos=tables.cos / size, sin=-tables.sin / size)
