"""Residual branches, blocks, embedders, and the stack that turns inputs into hidden states."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from langwright.parts.attention import Context
from langwright.parts.bias import Bias, Lowered, Places
from langwright.parts.kept import Cache
from langwright.parts.kernels import Stateless
from langwright.parts.positions import Rope
from langwright.parts.state import CrossMemory, NewTokens, State, Taps
from langwright.parts.virtual_tokens import VirtualTokens


class Residual(nn.Module):
    """y = out_norm(x + gate * dropout(res_norm(fn(in_norm(x))))); absent pieces are the identity.

    `fn(x, context)` is attention, a feed-forward, or anything else with this call.

    One equation for pre-norm (`in_norm`), post-norm (`out_norm`), sandwich norm (`in_norm` and `res_norm`) and
    gated branches (`gate`, a module that scales the branch).

    Attributes:
        adapter: None, or a module that is called in place of `plain`, and calls it.
    """

    def __init__(
        self,
        fn: Callable[..., Tensor],
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
        return self.plain(x, context) if self.adapter is None else self.adapter(x, self, context)

    def plain(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        """What is added to x without an adapter."""
        y = self.fn(x if self.in_norm is None else self.in_norm(x), context)
        if self.res_norm is not None:
            y = self.res_norm(y)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        return y if self.gate is None else self.gate(y)


class Block(nn.Module):
    """One layer: an attention branch, then a feed-forward branch.

    Args:
        attention, feedforward: the branches.
        bias: what attention may see.
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

    Args:
        attention, feedforward: the branches.
        bias: what attention may see.
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


class MixerBlock(nn.Module):
    """One layer of a single branch that mixes tokens without attention, such as a recurrent layer.

    Args:
        mixer: called with hidden states and context; a `Residual` where what it reads is added to what it gives.
    """

    bias = None

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time width"]:
        given: Tensor = self.mixer(x, context)
        return given


class Embedding(nn.Module):
    """Token vectors, plus learned position vectors and vectors of token types where the family has them.

    Args:
        vocabulary, dim: the shape of the token table.
        positions: rows of the position table, or None when positions enter elsewhere (RoPE, ALiBi).
        dropout: of the sum, in training.
        norm: of the sum, where the family has one.
        types: how many token types there are.
        offset: rows at the front of the position table that stand for no position (RoBERTa, BART).
        scale: multiplies the token vectors.
        round_scale: whether it is rounded to their dtype first (Gemma).
        sinusoids: fixed position vectors in place of a table.
        tied: a table of token vectors that another stack owns.

    Attributes:
        adapter: None, or a module that is called in place of `plain`, and calls it.
        vectors: None, or a module that makes vectors of inputs that are no token ids, in the place of the table, such
            as `SeriesVectors`; `vectors.length(time)` says how many.
    """

    tokens: Any

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
        sinusoids: Callable[[Tensor], Tensor] | None = None,
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
        self.max_positions = positions - offset if positions else None
        self.adapter: nn.Module | None = None
        self.vectors: Any = None

    def size(self, inputs: Shaped[Tensor, "batch time *size"]) -> tuple[int, int]:
        """Rows and tokens, or vectors."""
        time = inputs.shape[1]
        return inputs.shape[0], time if self.vectors is None else self.vectors.length(time)

    def forward(
        self,
        ids: Shaped[Tensor, "batch time *size"],
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

    def plain(self, ids: Shaped[Tensor, "batch time *size"]) -> Float[Tensor, "batch length dim"]:
        """The token vectors alone, without an adapter."""
        return F.embedding(ids, self.tokens) if self.vectors is None else self.vectors(ids)

    def read_by(self, vectors: nn.Module) -> None:
        """Take vectors of other inputs in the place of the token table; see `vectors`."""
        self.tokens, self.vectors = None, vectors

    def full_weight(self) -> Float[Tensor, "vocabulary dim"]:
        """The token table as one matrix of floats."""
        return self.tokens


class Stack(nn.Module):
    """Embedder, blocks and final norm (None after post-norm blocks): inputs -> hidden states [batch, length, dim].

    Args:
        embed: turns inputs into vectors: of tokens (`Embedding`), patches of images, frames of sound. It is called as
            `Embedding` is, `embed.size(inputs)` gives batch and length of what they become, and `embed.max_positions`
            the longest sequence that it has positions for, or None.
        blocks: the layers.
        final_norm: of what the last block gives.
        rope: turns queries and keys by their positions.
        dropout: on what the stack gives, in training only (T5).

    Attributes:
        cache: how what attention reads of earlier tokens is kept where an engine keeps it; calls without a state give
            the same as such an engine. Set it at any time.
        tiled: attention goes tile by tile (`flash_attention.py`) unless its weights are watched; set it at any time.
        recompute: in training, keep only what goes into each block, and compute the block again for its gradients
            (Chen et al., 2016).
        adapter: None, or a module whose method `virtual_tokens` gives `VirtualTokens`, or None for none at the moment.
    """

    tiled = False
    cache: Cache = "full"

    def __init__(
        self,
        embed: nn.Module,
        blocks: Sequence[Block | ParallelBlock | MixerBlock],
        final_norm: nn.Module | None,
        rope: Rope | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.dropout = dropout
        self.recompute = False
        self.embed: Any = embed
        self.blocks = nn.ModuleList(blocks)
        self.biases: list[Any] = [block.bias for block in blocks]  # None where nothing attends
        self.terms = nn.ModuleList(dict.fromkeys(b.term for b in self.biases if b and isinstance(b.term, nn.Module)))
        self.final_norm = final_norm
        self.rope = rope
        self.causal = all(bias is None or bias.causal for bias in self.biases)
        self.adapter: nn.Module | None = None

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the embedder has positions for; None where there is no limit."""
        limit: int | None = self.embed.max_positions
        return limit

    def own_slots(self) -> dict[int, Any]:
        """New slots of the layers whose mixers have a `new_slot` of their own, for a state, by number."""
        mixers = ((layer, module) for layer, block in enumerate(self.blocks) for module in block.modules())
        return {layer: mixer.new_slot() for layer, mixer in mixers if hasattr(mixer, "new_slot")}  # type: ignore[operator]

    @property
    def carries(self) -> bool:
        """Whether all that is kept between calls has a fixed size: no layer attends."""
        return len(self.own_slots()) == len(self.blocks)

    def forward(
        self,
        inputs: Shaped[Tensor, "batch *shape"],
        mask: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "batch time"] | None = None,
        segments: Int[Tensor, "batch time"] | None = None,
        state: State | None = None,
        taps: Taps | None = None,
        types: Int[Tensor, "batch time"] | None = None,
        memory: CrossMemory | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Hidden states after the final norm: of the tokens, and of virtual tokens that stay (see `VirtualTokens`).

        Args:
            inputs: what the embedder takes: token ids [batch, time].
            mask: true where a token is real; None means all are (padding at the right of a causal model needs none).
            positions: of the tokens; by default each follows the one before it in its row and segment.
            segments: the document of each token, where a row packs several; see `TokenBatch.segments`.
            state: what earlier calls left, which this call extends.
            taps: what an observer asks to see.
            types: the type of each token, where the family has them; 0 by default.
            memory: what the layers with cross-attention read.
        """
        x, contexts, dropped = self.enter(inputs, mask, positions, segments, state, taps, types, memory)
        for block, context in zip(self.blocks, contexts, strict=True):
            if self.recompute and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, context, use_reentrant=False)
            else:
                x = block(x, context)
            if taps is not None and taps.wants("hidden"):
                taps.put("hidden", context.layer, x)
        if dropped:
            x = x[:, dropped:]
        x = x if self.final_norm is None else self.final_norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def enter(
        self,
        inputs: Shaped[Tensor, "batch *shape"],
        mask: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "batch time"] | None = None,
        segments: Int[Tensor, "batch time"] | None = None,
        state: State | None = None,
        taps: Taps | None = None,
        types: Int[Tensor, "batch time"] | None = None,
        memory: CrossMemory | None = None,
    ) -> tuple[Float[Tensor, "batch length dim"], list[Context], int]:
        """What the first block reads, what each block is given beside its input, and how many virtual tokens are
        dropped after the last; arguments as for `forward`.
        """
        real = mask
        if mask is not None and positions is None and state is None and self.causal and _at_the_right(~mask):
            mask = None  # no real token sees it, and the kernels for whole rows are faster
        batch, time = self.embed.size(inputs)
        alone = Stateless(self.cache)
        held = alone if state is None else state
        virtual = None if self.adapter is None or held.length else self.adapter.virtual_tokens()  # type: ignore[operator]
        virtual = virtual or VirtualTokens(0)
        new = NewTokens(batch, time, inputs.device, mask, positions, segments).behind(virtual.length)
        if self.max_positions is not None and new.time > self.max_positions:
            raise ValueError(f"{new.time} tokens do not fit the {self.max_positions} learned positions")
        places = virtual.places(held.begin(new))
        if real is not None and virtual.vectors is not None:
            real = F.pad(real, (virtual.length, 0), value=True)
        query, asked = places.query, places.query_segments
        x = self.embed(inputs, query, types, virtual.vectors)
        lowered = {b: self._lower(b, places, x) if b else Lowered() for b in dict.fromkeys(self.biases)}
        tables = None if self.rope is None else self.rope.tables(query, x.dtype, real, asked)
        cross = Lowered()
        if memory is not None:
            read = Places(query, memory.positions, memory.mask is None, asked, memory.segments)
            cross = self._lower(Bias(), read, x)
        contexts = []
        for layer, bias in enumerate(self.biases):
            slot, reads = virtual.slot(layer, held.slot(layer)), memory and memory.slots.get(layer, alone)
            contexts.append(Context(lowered[bias], tables, slot, taps, layer, memory, cross, real, asked, reads))
        return x, contexts, virtual.dropped

    def _lower(self, bias: Bias, places: Places, x: Tensor) -> Lowered:
        """A bias in the form of the kernels, once a call and outside of what is compiled or recomputed."""
        if self.tiled:
            return Lowered(described=(bias, places), tiled=True)
        return bias.lower(places, x.dtype)._replace(described=(bias, places))


def _at_the_right(padding: Bool[Tensor, "batch time"]) -> bool:
    """Whether nothing but padding follows padding; tensors without values do not tell."""
    return not padding.is_meta and bool((padding[:, 1:] >= padding[:, :-1]).all())
