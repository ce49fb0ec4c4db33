"""Keys and values of many texts in blocks of one pool a layer (PagedAttention, Kwon et al., 2023).

A text has a table of its blocks; nothing is moved when texts come and go, and texts with a common beginning share its
blocks. One forward pass reads rows of texts with a `PagedState`; each row is a piece of a text, from any place on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from langwright.adaptation.attached import attached
from langwright.base.errors import UserError
from langwright.inference.blocks import Blocks
from langwright.inference.continuation import Continuation, Piece
from langwright.inference.memory import Hidden, Ids, Real, as_at_first
from langwright.models.model import Model
from langwright.parts import native
from langwright.parts.attention import Attention
from langwright.parts.bias import Lowered, Places
from langwright.parts.carry import Carry
from langwright.parts.kept import FORMS, Cache, Form, Parts
from langwright.parts.kernels import Stateless, attend
from langwright.parts.linear import FEW
from langwright.parts.moe import MoE
from langwright.parts.rope_scaling import DynamicScaling
from langwright.parts.state import CrossMemory, Keys, KeysValues, NewTokens, Queries, Settings

IN_PLACE = 8
"""So many new tokens of each row attend to blocks where they lie; for more it is faster to copy them out first."""
InBlocks = Float[Tensor, "blocks kv_heads size head_dim"]


class Pool(NamedTuple):
    """Keys and values of one layer [blocks, kv_heads, size, ...].

    form: in which they are kept. dtype: in which they are read.
    """

    keys: Parts
    values: Parts
    form: Form
    dtype: torch.dtype

    @classmethod
    def of(cls, keys: InBlocks, values: InBlocks, form: Form) -> "Pool":
        """A pool that holds these."""
        return cls(form.pack(keys), form.pack(values), form, keys.dtype)

    def read(self, held: Parts, blocks: Tensor | slice) -> Float[Tensor, "*blocks kv_heads size head_dim"]:
        """Keys or values of some blocks."""
        return self.form.unpack(tuple(part[blocks] for part in held), self.dtype)

    def kernels(self, q: Queries, k: Keys, v: Keys) -> Any:
        """The native kernels, where they take these and what is kept."""
        kept = self.keys if self.keys[0].is_floating_point() else ()
        return native.serves(q, k, v, *kept)


class Part(NamedTuple):
    """Blocks that about as many rows read: which of the pool, and those rows, with any row in the places left over."""

    blocks: Tensor | slice
    readers: Int[Tensor, "blocks readers"]


class Pages:
    """Where the tokens of the rows of one pass lie.

    Args:
        tables: the blocks of each row.
        starts: which token of its text the first new one of each row is.
        counts: how many new ones each row has, in its first columns.
        size: tokens in a block.
        device: of the pool.
    """

    def __init__(
        self, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int], size: int, device: Any
    ):
        held = [-(-(start + count) // size) for start, count in zip(starts, counts, strict=True)]
        self.rows, self.longest, self.size = len(tables), max(held), size
        padded = [[*table[:n], *[0] * (self.longest - n)] for table, n in zip(tables, held, strict=True)]
        self.tables = torch.tensor(padded, device=device)
        self.starts, self.counts = (torch.tensor(numbers, device=device)[:, None] for numbers in (starts, counts))
        columns = torch.arange(max(counts), device=device)
        self._row, self._column = (columns < self.counts).nonzero().unbind(1)
        position = self.starts[self._row, 0] + self._column
        self._block, self._offset = self.tables[self._row, position // size], position % size
        self.parts: list[Part] = []

    @property
    def positions(self) -> Int[Tensor, "rows keys"]:
        """Of all that lies in the blocks, -1 for what does not belong to the row."""
        counted = torch.arange(self.longest * self.size, device=self.tables.device)[None]
        return counted.masked_fill(counted >= self.starts + self.counts, -1)

    def write(self, pool: Pool, k: Keys, v: Keys) -> None:
        """Keep new keys and values."""
        for held, new in ((pool.keys, k), (pool.values, v)):
            chosen = pool.form.pack(new.transpose(1, 2)[self._row, self._column])
            for part, one in zip(held, chosen, strict=True):
                part.transpose(1, 2)[self._block, self._offset] = one.to(part.dtype)

    def gather(self, pool: Pool) -> KeysValues:
        """Copies of all that lies in the blocks of each row, in one piece."""
        keys, values = (pool.read(held, self.tables).transpose(1, 2).flatten(2, 3) for held in (pool.keys, pool.values))
        return keys, values

    def order_reads(self) -> None:
        """Prepare `attend_blocks`: gather the blocks that are read by how many rows read them, 1, 2, up to 4, up to 8.

        Sets `parts`, of each such size the blocks in the pool and `readers` [blocks, size], the rows that read each;
        `pair` [rows, longest], where in those tables, made flat, each block of a row stands, one behind the end for
        none; `pairs`, the same in one piece, and `firsts`, where each row begins in it.
        """
        there = torch.arange(self.longest, device=self.tables.device) * self.size < self.starts + self.counts
        blocks, rows = self.tables[there], there.nonzero()[:, 0]
        counts = blocks.bincount()
        order = blocks.argsort(stable=True)
        nth = torch.empty_like(blocks)  # which of the readers of its block a row is
        nth[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[blocks[order]]
        sizes = (2 ** counts.clamp(min=1).log2().ceil().long()).masked_fill(counts == 0, 0)
        self.pairs, first = torch.empty_like(blocks), 0
        for size in sizes.unique().tolist()[int(sizes.min() == 0) :]:
            held, mine = (sizes == size).nonzero()[:, 0], sizes[blocks] == size
            low, high = int(held[0]), int(held[-1]) + 1
            if near := high - low <= 2 * len(held):  # little is read in vain, and nothing is copied
                number = blocks[mine] - low
            else:
                number = torch.searchsorted(held, blocks[mine])
            readers = blocks.new_zeros(high - low if near else len(held), size)
            readers[number, nth[mine]] = rows[mine]
            self.pairs[mine] = first + number * size + nth[mine]
            self.parts.append(Part(slice(low, high) if near else held, readers))
            first += readers.numel()
        self.pair = torch.full_like(self.tables, first)
        self.pair[there] = self.pairs
        self.firsts = torch.searchsorted(rows, torch.arange(self.rows, device=rows.device))


def attend_blocks(q: Queries, pool: Pool, pages: Pages, bias: Lowered, settings: Settings) -> Queries:
    """softmax(q kᵀ scale + bias) v over keys and values that stay where they lie.

    Every block is multiplied once with the queries of all rows that read it, so that a prompt of which several texts
    go on is read once for all of them. On one core 16 rows of 256 tokens in 12 heads of 64 take 1.2 ms so, 1.8 ms in
    one contiguous cache by the fused kernel, and 5 to 10 ms where the blocks are gathered first.
    """
    if not pages.parts:
        pages.order_reads()
    (rows, heads, time, width), (_, kv_heads, size, _) = q.shape, pool.keys[0].shape
    longest, asked = pages.longest, heads // kv_heads * time  # queries of a row for each head of the keys
    queries = (q * settings.scale).reshape(rows, kv_heads, asked, width).to(pool.dtype)
    products = []
    for part in pages.parts:
        blocks, readers = part.readers.shape
        one = queries[part.readers].transpose(1, 2).reshape(blocks, kv_heads, readers * asked, width)
        one = (one @ pool.read(pool.keys, part.blocks).mT).view(blocks, kv_heads, readers, asked, size)
        products.append(one.transpose(1, 2).flatten(0, 1))
    found = _joined(products)
    scores = found[pages.pair.clamp(max=len(found) - 1)].permute(0, 2, 3, 1, 4).float()
    scores = scores.reshape(rows, heads, time, longest * size)
    if settings.softcap is not None:
        scores = (scores / settings.softcap).tanh_() * settings.softcap
    if bias.allowed is not None:
        scores = scores.masked_fill(~bias.allowed, torch.finfo(scores.dtype).min)
    if bias.scores is not None:
        scores = scores + bias.scores
    weights = scores.softmax(-1).to(found.dtype).view(rows, kv_heads, asked, longest, size).permute(0, 3, 1, 2, 4)
    spread = weights.new_empty(len(found) + 1, kv_heads, asked, size)  # the last row collects padding
    spread[pages.pair] = weights
    products = []
    for part, one in zip(pages.parts, spread[:-1].split([part.readers.numel() for part in pages.parts]), strict=True):
        blocks, readers = part.readers.shape
        one = one.view(blocks, readers, kv_heads, asked, size).transpose(1, 2)
        one = one.reshape(blocks, kv_heads, readers * asked, size) @ pool.read(pool.values, part.blocks)
        one = one.view(blocks, kv_heads, readers, asked * width).transpose(1, 2)
        products.append(one.reshape(blocks * readers, -1))
    mixed = F.embedding_bag(pages.pairs, _joined(products), pages.firsts, mode="sum")
    return mixed.view(q.shape).to(q.dtype)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One after the other, without a copy where there is one only."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


class PagedSlot(NamedTuple):
    """One layer in one pass (see `parts.state.Slot`). fresh: all that is attended to is new."""

    pool: Pool
    pages: Pages
    fresh: bool

    def attend(self, q: Queries, k: Keys, v: Keys, bias: Lowered, settings: Settings) -> Queries:
        """Keep what is new, and attend to all."""
        pages, pool = self.pages, self.pool
        few = not self.fresh and q.shape[2] <= FEW and not bias.tiled
        if few and (kernels := pool.kernels(q, k, v)) is not None:
            where, seen = (pages.tables, pages.starts, pages.counts), (bias.allowed, bias.scores)
            kept = pool.keys, pool.values
            return native.attend_blocks(kernels, q, k, v, kept, where, settings.scale, settings.softcap, seen)
        if k.shape[2]:
            pages.write(pool, k, v)
        if self.fresh:  # in pieces, or from a beginning that was found again, it would read what is kept
            k, v = (pool.form.unpack(pool.form.pack(x), x.dtype) for x in (k, v))
            return attend(q, k, v, bias, settings)
        if bias.tiled and bias.described is not None:
            bias = bias.described[0].lower(bias.described[1], q.dtype)
        if q.shape[2] > IN_PLACE:
            return attend(q, *pages.gather(pool), bias, settings)
        return attend_blocks(q, pool, pages, bias, settings)


class PagedState:
    """The state of one pass over pieces of texts, all of them from the beginning or none (see `parts.state.State`)."""

    def __init__(self, cache: "PagedCache", pieces: Sequence[Piece]):
        self._cache, self._pieces = cache, pieces
        self.fresh = not pieces[0].start
        self.length = 0 if self.fresh else max(piece.start for piece in pieces)
        self._carried: dict[int, Carry] = {}
        self._pages: Pages | None = None

    def begin(self, new: NewTokens) -> Places:
        """Where the new tokens and all that is held of their texts stand.

        Padding is at the right, where no real token of a causal model sees it: the positions of a fresh pass are plain.
        """
        ahead = [self._cache.ahead(piece.text) for piece in self._pieces]
        starts = [0 if self.fresh else n + piece.start for n, piece in zip(ahead, self._pieces, strict=True)]
        counts = [piece.length + (n if self.fresh else 0) for n, piece in zip(ahead, self._pieces, strict=True)]
        if self._cache.own:
            tables = [piece.text.tables[0] for piece in self._pieces]
            self._pages = Pages(tables, starts, counts, self._cache.blocks.size, new.device)
        if self.fresh or self._pages is None:
            return Stateless().begin(new._replace(mask=None))
        query = self._pages.starts + torch.arange(new.time, device=new.device)
        return Places(query, self._pages.positions, gapless=False)

    def slot(self, layer: int) -> Any:
        """What a layer keeps of these texts."""
        if layer in self._cache.carrying:
            held = [piece.text.carried[layer] for piece in self._pieces if layer in piece.text.carried]
            self._carried[layer] = Carry()
            if held:
                self._carried[layer].write(torch.cat(held))
            return self._carried[layer]
        if layer not in self._cache.own:
            return Stateless()
        assert self._pages is not None
        return PagedSlot(self._cache.pools[layer], self._pages, self.fresh)

    def leave(self) -> None:
        """Hand each text what layers without attention keep of it."""
        for layer, carry in self._carried.items():
            memory = carry.read()
            assert memory is not None
            for piece, one in zip(self._pieces, memory.split(1), strict=True):
                piece.text.carried[layer] = one


class HeldSources(CrossMemory):
    """What cross-attention reads in a pass after the first: the blocks of the sources."""

    def __init__(self, cache: "PagedCache", pieces: Sequence[Piece], device: Any):
        lengths, tables = zip(*((cache.source_length(p.text), p.text.tables[1]) for p in pieces), strict=True)
        pages = Pages(tables, lengths, [0] * len(pieces), cache.blocks.size, device)
        real = pages.positions >= 0
        super().__init__(torch.empty(*real.shape, 0, device=device), real)
        self._pools = cache.pools
        self.slots = {layer: PagedSlot(cache.pools[layer], pages, fresh=False) for layer in cache.cross}

    def keys_values(self, layer: int, make: Any) -> KeysValues:
        """Nothing new."""
        pool = self._pools[layer]
        like = pool.keys[0]
        empty = like.new_empty(len(self.hidden), like.shape[1], 0, like.shape[3], dtype=pool.dtype)
        return empty, empty


class PagedCache:
    """The memory of all texts of an engine, allocated at once.

    Args:
        model: whose layers keep keys and values, or a memory of fixed size.
        blocks: how many there are, for texts and for the sources of an encoder-decoder.
        size: tokens in a block.
        cache: how keys and values are kept.

    Attributes:
        blocks: them as numbers.
        pools: the keys and values of each layer that attends.
        own, cross: the layers that attend to their own tokens, and those that attend to sources.
        carrying: the layers that keep a memory of fixed size, which lies with each text.
        reuses, rewrites: see `Memory`.
    """

    keeps = True

    def __init__(self, model: Model, blocks: int, size: int, cache: Cache = "full"):
        self._model, self.device = model, model.device
        self.carrying = frozenset(_carrying(model))
        self.own, self.cross = _attending(model)
        self.blocks = Blocks(blocks if self.own or self.cross else 0, size)
        dtype = model.body.embed.tokens.dtype

        def pool(module: Attention) -> Pool:
            shape = blocks, module.kv_heads, size, module.head_dim
            one = torch.zeros(*shape[:2], 1, shape[3], dtype=dtype, device=self.device)  # grows to the size in its form
            keys, values = (tuple(part.repeat(1, 1, size, 1) for part in FORMS[cache].pack(one)) for _ in range(2))
            return Pool(keys, values, FORMS[cache], dtype)

        self.pools = {layer: pool(module) for layer, module in (self.cross | self.own).items()}
        experts = any(isinstance(part, MoE) and part.capacity is not None for part in model.body.modules())
        scaling = None if model.body.rope is None else model.body.rope.scaling
        self._divisible = not experts and not isinstance(scaling, DynamicScaling)
        self.rewrites = self._divisible and bool(self.own) and not self.carrying and model.body.causal
        self.reuses = self.rewrites and not self.cross

    @staticmethod
    def block_bytes(model: Model, size: int, cache: Cache = "full") -> int:
        """Bytes of a block in all layers; 0 for a model whose memory does not grow."""
        own, cross = _attending(model)
        dtype = model.body.embed.tokens.dtype
        each = (m.kv_heads * FORMS[cache].size(m.head_dim, dtype) for m in (cross | own).values())
        return 2 * size * sum(each)

    @staticmethod
    def blocks_for(model: Model, tokens: int, size: int) -> int:
        """Blocks of a text of so many tokens, and of a source as long."""
        every = [virtual_before(model, names) for names in ((), *((name,) for name in attached(model).adapters))]
        kinds = zip(_attending(model), map(max, zip(*every, strict=True)), strict=True)
        return sum(-(-(ahead + tokens) // size) for layers, ahead in kinds if layers)

    def ahead(self, text: Continuation) -> int:
        """See `Memory`."""
        return virtual_before(self._model, text.owner.adapters)[0]

    def reach(self, text: Continuation, most: int) -> int:
        """As far as it may, where what a token leaves does not depend on the tokens that are read with it."""
        return min(len(text.ids), text.computed + most) if self._divisible else as_at_first(text)

    def spans(self, text: Continuation, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Which tokens reading these of a text writes into blocks: its own, and those of its source."""
        ahead = self.ahead(text)
        own = (ahead + start if start else 0, ahead + stop) if self.own else (0, 0)
        return own, (0, self.source_length(text)) if self.cross and not start else (0, 0)

    def source_length(self, text: Continuation) -> int:
        """Tokens of a source, virtual ones among them."""
        return virtual_before(self._model, text.owner.adapters)[1] + len(text.source)

    def read(self, ids: Ids, real: Real | None, pieces: Sequence[Piece], encoded: CrossMemory | None) -> Hidden:
        """One forward pass (see `Memory`)."""
        state = PagedState(self, pieces)
        hidden: Tensor = self._model.body(ids, real, state=state, memory=self._sources(pieces, encoded))
        state.leave()
        return hidden

    def _sources(self, pieces: Sequence[Piece], encoded: CrossMemory | None) -> CrossMemory | None:
        """What cross-attention reads: sources just encoded, which are kept, or those that are held."""
        if not self.cross:
            return encoded
        if encoded is None:
            return HeldSources(self, pieces, self.device)
        counts = [self.source_length(piece.text) for piece in pieces]
        tables = [piece.text.tables[1] for piece in pieces]
        pages = Pages(tables, [0] * len(pieces), counts, self.blocks.size, self.device)
        encoded.slots = {layer: PagedSlot(self.pools[layer], pages, fresh=True) for layer in self.cross}
        return encoded

    def prepare(self, copies: Sequence[tuple[int, int]]) -> None:
        """Clean what was claimed, since 0 times a number that is not finite is none either; copy what was shared."""
        taken = torch.tensor(self.blocks.taken, dtype=torch.long, device=self.device)
        old, new = (torch.tensor([pair[i] for pair in copies], dtype=torch.long, device=self.device) for i in range(2))
        self.blocks.taken.clear()
        for held in (part for pool in self.pools.values() for part in (*pool.keys, *pool.values)):
            if len(taken):
                held.index_fill_(0, taken, 0)
            if len(new):
                held[new] = held[old]


def _attending(model: Model) -> tuple[dict[int, Attention], dict[int, Attention]]:
    """The layers of a body that attend to its own tokens, and those that read a memory."""
    found: tuple[dict[int, Attention], dict[int, Attention]] = ({}, {})
    for layer, block in enumerate(model.body.blocks):
        for module in block.modules():
            if isinstance(module, Attention):
                found[module.memory_dim is not None][layer] = module
    return found


def _carrying(model: Model) -> list[int]:
    own = model.body.own_slots()
    for layer, slot in own.items():
        if not isinstance(slot, Carry):
            raise UserError(f"layer {layer} of {model.family} keeps a {type(slot).__name__}, which no text can own")
    return list(own)


def virtual_before(model: Model, adapters: Sequence[str]) -> tuple[int, int]:
    """Virtual tokens before each text that these adapters answer, and before each source."""
    there = [attached(model).adapter(name) for name in adapters]
    body, source = (sum(one.settings.tokens for one in there if stack in one.modules) for stack in ("body", "encoder"))
    return body, source
