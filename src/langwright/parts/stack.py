"""Residual branches, blocks, and the stack that turns ids into hidden states."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from langwright.parts.attention import Context, Cross, prefers_explicit
from langwright.parts.bias import Bias, Lowered, Places
from langwright.parts.cross_memory import CrossMemory
from langwright.parts.positions import Rope, Sinusoids, document_lengths
from langwright.parts.state import State, Taps
from langwright.parts.virtual_tokens import VirtualTokens


@runtime_checkable
class Branch(Protocol):
    """What a residual wraps: attention, a feed-forward, or anything else with this call."""

    def __call__(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]: ...


class Residual(nn.Module):
    """y = out_norm(x + gate * dropout(res_norm(fn(in_norm(x))))); absent pieces are the identity.

    One equation for pre-norm (`in_norm`), post-norm (`out_norm`), sandwich norm (`in_norm` and `res_norm`) and
    gated branches (`gate`, a module that scales the branch).
    side: None, or what is told x, the branch and this residual, and answers in the branch's place (an adapter).
    """

    def __init__(
        self,
        fn: Branch,
        in_norm: nn.Module | None = None,
        res_norm: nn.Module | None = None,
        out_norm: nn.Module | None = None,
        gate: nn.Module | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.fn = fn
        self.in_norm, self.res_norm, self.out_norm, self.gate = in_norm, res_norm, out_norm, gate
        self.dropout = dropout
        self.adapter: nn.Module | None = None

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        y = self.branch(x, context)
        return x + y if self.out_norm is None else self.out_norm(x + y)

    def branch(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        """What is added to x."""
        y = self.fn(x if self.in_norm is None else self.in_norm(x), context)
        if self.res_norm is not None:
            y = self.res_norm(y)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        y = y if self.gate is None else self.gate(y)
        return y if self.adapter is None else self.adapter(x, y, self)


class Block(nn.Module):
    """One layer: an attention branch, then a feed-forward branch. `bias` describes what its attention may see.

    cross: a branch between the two that reads a memory, where the layer belongs to the decoder of an encoder.
    """

    def __init__(self, attention: Residual, feedforward: Residual, bias: Bias, cross: Residual | None = None):
        super().__init__()
        self.attention = attention
        self.cross = cross
        self.feedforward = feedforward
        self.bias = bias

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        x = self.attention(x, context)
        if self.cross is not None:
            x = self.cross(x, context)
        return self.feedforward(x, context)


class ParallelBlock(nn.Module):
    """One layer whose two branches read the same input: y = x + attention(x) + feedforward(x) (GPT-J, 2021).

    in_norm: a norm that both branches share; None where each branch has its own.
    """

    def __init__(self, attention: Residual, feedforward: Residual, bias: Bias, in_norm: nn.Module | None = None):
        super().__init__()
        self.in_norm = in_norm
        self.attention = attention
        self.feedforward = feedforward
        self.bias = bias

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        read = x if self.in_norm is None else self.in_norm(x)
        return x + self.attention.branch(read, context) + self.feedforward.branch(read, context)


class Embedding(nn.Module):
    """Token vectors, plus learned position vectors and vectors of token types where the family has them.

    scale: multiplies the token vectors. round_scale: it is rounded to their dtype first (Gemma).
    positions: rows of the position table, or None when positions enter elsewhere (RoPE, ALiBi).
    norm: of the sum, where the family has one. types: how many token types there are.
    offset: rows at the front of the position table that stand for no position (RoBERTa, BART).
    sinusoids: fixed position vectors in place of a table. tied: a table of token vectors that another stack owns.
    side: None, or what answers in place of `plain`, and calls it (an adapter of the token table).
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        positions: int | None = None,
        dropout: float = 0.0,
        norm: nn.Module | None = None,
        types: int | None = None,
        offset: int = 0,
        scale: float | None = None,
        round_scale: bool = False,
        sinusoids: Sinusoids | None = None,
        tied: nn.Parameter | None = None,
    ):
        super().__init__()
        self.scale, self.round_scale = scale, round_scale
        self.norm = norm
        self.offset, self.sinusoids = offset, sinusoids
        self.tokens = nn.Parameter(torch.empty(vocabulary, dim)) if tied is None else tied
        self.positions = nn.Parameter(torch.empty(positions, dim)) if positions else None
        self.types = nn.Parameter(torch.empty(types, dim)) if types else None
        self.dropout = dropout
        self.adapter: nn.Module | None = None

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        positions: Int[Tensor, "#batch length"],
        types: Int[Tensor, "batch time"] | None = None,
        virtual: Float[Tensor, "slots dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """The sum for each token; `virtual`: vectors before those of the tokens, counted by `positions`."""
        x = self.plain(ids) if self.adapter is None else self.adapter(ids, self)
        if virtual is not None:
            x = torch.cat((virtual.to(x.dtype).expand(x.shape[0], -1, -1), x), 1)
            types = None if types is None else F.pad(types, (virtual.shape[0], 0))
        if self.scale is not None:
            rounded = torch.full((), self.scale, dtype=x.dtype, device=x.device) if self.round_scale else self.scale
            x = x * rounded
        if self.positions is not None:
            x = x + F.embedding(positions + self.offset if self.offset else positions, self.positions)
        if self.sinusoids is not None:
            x = x + self.sinusoids(positions).to(x.dtype)
        if self.types is None and types is not None:
            raise ValueError("this model knows no token types")
        if self.types is not None:
            x = x + (self.types[0] if types is None else F.embedding(types, self.types))
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def plain(self, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        """The token vectors alone, whatever stands beside the table."""
        return F.embedding(ids, self.tokens)

    def full_weight(self) -> Float[Tensor, "vocabulary dim"]:
        """The token table as one matrix of floats."""
        return self.tokens


class Stack(nn.Module):
    """Embedding, blocks and final norm (None after post-norm blocks): ids [B, T] -> hidden [B, T, D].

    max_positions: the longest sequence a learned position table allows; None where positions have no end.
    dropout: on what the stack gives, in training only (T5).
    tiled: attention goes tile by tile (`flash_attention.py`) unless its weights are watched; set it at any time.
    recompute: in training, keep only what goes into each block, and compute the block again for its gradients
    (Chen et al., 2016).
    virtual_tokens: None, or a module that gives `VirtualTokens`, or None for none at the moment.
    """

    tiled = False

    def __init__(
        self,
        embed: Embedding,
        blocks: Sequence[Block | ParallelBlock],
        final_norm: nn.Module | None,
        rope: Rope | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.dropout = dropout
        self.recompute = False
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.biases = [block.bias for block in blocks]
        self.terms = nn.ModuleList(dict.fromkeys(b.term for b in self.biases if isinstance(b.term, nn.Module)))
        self.final_norm = final_norm
        self.rope = rope
        self.capped = any(getattr(block.attention.fn, "softcap", None) is not None for block in blocks)
        self.causal = all(bias.causal for bias in self.biases)
        self.virtual_tokens: nn.Module | None = None
        self.max_positions = None if embed.positions is None else embed.positions.shape[0] - embed.offset

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "batch time"] | None = None,
        segments: Int[Tensor, "batch time"] | None = None,
        state: State | None = None,
        taps: Taps | None = None,
        types: Int[Tensor, "batch time"] | None = None,
        memory: CrossMemory | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states after the final norm: of the tokens, and of a virtual that stays (see `VirtualTokens`).

        mask: true where a token is real; None means all are (padding at the right of a causal model needs no mask).
        positions: `cumsum(mask) - 1` unless given. segments: see `Batch.segments`.
        state: memory of earlier calls, which this call extends; it knows the positions itself.
        types: the type of each token, where the family has them; all are of type 0 unless given.
        memory: what the layers with cross-attention read.
        """
        real = mask
        if mask is not None and positions is None and state is None and self.causal and _at_the_right(~mask):
            mask = None  # no real token sees it, and kernels without a mask are faster
        virtual: VirtualTokens | None = (
            None if self.virtual_tokens is None or (state is not None and state.length) else self.virtual_tokens()
        )
        longest = ids.shape[1] + (0 if virtual is None else virtual.length)
        if self.max_positions is not None and longest > self.max_positions:
            raise ValueError(f"{longest} tokens do not fit the {self.max_positions} learned positions")
        if virtual is None:
            places, query_positions = self._places(ids, mask, positions, segments, state)
            x = self.embed(ids, query_positions, types)
        else:
            slots = virtual.slots(ids, mask, positions, segments)
            places, query_positions = virtual.places(*self._places(*slots, state))
            x = self.embed(ids, query_positions, types, virtual.vectors)
            if real is not None and virtual.vectors is not None:
                real = F.pad(real, (virtual.vectors.shape[0], 0), value=True)
        keys = places[0].key.shape[1]
        watched = taps is not None and taps.wants("attention")
        lowered = self._lower(places, x, watched, prefers_explicit(x, keys))
        segments = places[0].query_segments
        lengths = None
        if self.rope is not None and self.rope.scaling is not None and not (real is None and segments is None):
            lengths = document_lengths(query_positions, real, segments)
        tables = None if self.rope is None else self.rope.tables(query_positions, x.dtype, lengths)
        cross = None if memory is None else self._cross(memory, query_positions, x, taps)
        for layer, block in enumerate(self.blocks):
            extend = None if state is None else partial(state.extend, layer)
            if virtual is not None and virtual.layers:
                extend = partial(virtual.extend, layer, extend)
            context = Context(*lowered[layer], tables, extend, taps, layer, cross, real, segments)
            if self.recompute and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, context, use_reentrant=False)
            else:
                x = block(x, context)
            if taps is not None and taps.wants("hidden"):
                taps.put("hidden", layer, x)
        if virtual is not None:
            x = x[:, virtual.dropped :]
        x = x if self.final_norm is None else self.final_norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def _cross(self, memory: CrossMemory, queries: Tensor, like: Tensor, taps: Taps | None) -> Cross:
        """The memory and its padding, lowered once for all layers."""
        key = memory.positions
        places = Places(queries, key, gapless=memory.mask is None)
        watched = taps is not None and taps.wants("cross_attention")
        if self.tiled and not watched:
            return Cross(Lowered(described=(Bias(), places)), False, memory)
        lowered = Bias().lower(places, like.dtype)
        explicit = watched or prefers_explicit(like, key.shape[1])
        if explicit:
            lowered = lowered.additive(queries.shape[1], key.shape[1], like)
        return Cross(lowered, explicit, memory)

    def _places(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, segments: Tensor | None, state: State | None
    ) -> tuple[list[Places], Tensor]:
        """Where queries and keys stand, for every layer; and the query positions to embed."""
        if state is not None:
            if positions is not None or segments is not None:
                raise ValueError("with a state, positions and segments follow from the mask and cannot be passed")
            query, keys = state.place(ids, mask)
            return [Places(query, key, state.gapless) for key in keys], query
        if mask is None and positions is None:
            query = key = torch.arange(ids.shape[1], device=ids.device)[None]
            gapless = True
        else:
            real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
            counted = real.long().cumsum(1) - 1 if positions is None else positions
            query, key, gapless = counted.clamp(min=0), counted.masked_fill(~real, -1), False
        return [Places(query, key, gapless, segments, segments)] * len(self.blocks), query

    def _lower(
        self, places: Sequence[Places], like: Tensor, watched: bool, prefer_explicit: bool
    ) -> list[tuple[Lowered, bool]]:
        """The bias of each layer in its kernel's form, and whether that kernel is the explicit product.

        A plain causal triangle has kernels of its own, unless someone watches the weights or scores are capped. Layers
        that share description and keys share the tensors.
        """
        if self.tiled and not watched:
            return [(Lowered(described=pair), False) for pair in zip(self.biases, places, strict=True)]
        made: dict[tuple[Bias, int], tuple[Lowered, bool]] = {}
        for bias, place in zip(self.biases, places, strict=True):
            if (bias, id(place.key)) not in made:
                lowered = bias.lower(place, like.dtype)
                explicit = watched or self.capped or (prefer_explicit and not lowered.causal)
                if explicit:
                    lowered = lowered.additive(place.query.shape[1], place.key.shape[1], like)
                made[bias, id(place.key)] = lowered, explicit
        return [made[bias, id(place.key)] for bias, place in zip(self.biases, places, strict=True)]


def _at_the_right(padding: Bool[Tensor, "batch time"]) -> bool:
    """Whether nothing but padding follows padding."""
    return bool((padding[:, 1:] >= padding[:, :-1]).all())
