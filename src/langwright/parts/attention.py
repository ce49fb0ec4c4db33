"""Scaled dot-product attention (Vaswani et al., 2017): multi-head, multi-query, grouped-query; self or cross."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from langwright.parts.bias import Lowered
from langwright.parts.kernels import Stateless
from langwright.parts.linear import Linear, together
from langwright.parts.norms import Norm
from langwright.parts.positions import Tables, rotate
from langwright.parts.state import CrossMemory, Settings, Taps


class Context(NamedTuple):
    """What a stack gives each branch of one layer besides the hidden states.

    Args:
        bias: who sees whom, in the cheapest form.
        tables: cosines and sines of the positions, where they are rotary.
        slot: what the layer keeps between calls: a `parts.state.Slot` for attention.
        taps: what an observer asked to see.
        layer: the number of the layer.
        memory: what cross-attention reads, where there is such.
        cross: which of it may be seen.
        real: [batch, time], true where a token is real; None means all are.
        segments: [batch, time], the document of each token, where a row packs several.
        reads: the slot of cross-attention, where there is a memory.
    """

    bias: Lowered
    tables: Tables | None = None
    slot: Any = Stateless()
    taps: Taps | None = None
    layer: int = 0
    memory: CrossMemory | None = None
    cross: Lowered = Lowered()
    real: Bool[Tensor, "batch time"] | None = None
    segments: Int[Tensor, "batch time"] | None = None
    reads: Any = None


class Attention(nn.Module):
    """Queries read keys and values: MHA (`kv_heads == heads`), MQA (`kv_heads == 1`) and GQA in one class.

    Args:
        dim: width of the input and output.
        heads, kv_heads: of the queries, and of keys and values (as many unless given).
        head_dim: width of a head, `dim / heads` unless given.
        bias: which of the four projections carry a bias, a subset of "qkvo".
        scale: multiplies the scores, `head_dim ** -0.5` unless given.
        qk_norm: makes the norm over each head of q and of k, given the head's width; None for no norm.
        qk_norm_after_rope: whether it comes after the rotation (NanoChat) instead of before (Qwen3).
        softcap: of the scores, before the bias is added (Gemma 2).
        clip: q, k and v are cut to [-clip, clip] (MPT).
        dropout: on the attention weights, in training only.
        memory_dim: width of a memory that keys and values are made of (cross-attention) in place of the input.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: str = "",
        scale: float | None = None,
        qk_norm: Callable[[int], Norm] | None = None,
        qk_norm_after_rope: bool = False,
        softcap: float | None = None,
        clip: float | None = None,
        dropout: float = 0.0,
        memory_dim: int | None = None,
    ):
        super().__init__()
        self.memory_dim = memory_dim
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads or heads, head_dim or dim // heads
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.softcap, self.clip = softcap, clip
        self.dropout = dropout
        self.q = Linear(dim, self.heads * self.head_dim, "q" in bias)
        self.k = Linear(memory_dim or dim, self.kv_heads * self.head_dim, "k" in bias)
        self.v = Linear(memory_dim or dim, self.kv_heads * self.head_dim, "v" in bias)
        self.output = Linear(self.heads * self.head_dim, dim, "o" in bias)
        self.q_norm = None if qk_norm is None else qk_norm(self.head_dim)
        self.k_norm = None if qk_norm is None else qk_norm(self.head_dim)
        self.qk_norm_after_rope = qk_norm_after_rope

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        reads = self.memory_dim is not None
        if not reads:
            q, k, v = map(self._split, together(x, self.q, self.k, self.v))
        elif context.memory is not None:
            q = self._split(self.q(x))
            k, v = context.memory.keys_values(context.layer, self._keys_values)
        else:
            raise ValueError("this attention reads a memory, and the stack was given none")
        if self.clip is not None:
            q, k, v = (x.clamp(-self.clip, self.clip) for x in (q, k, v))
        if not self.qk_norm_after_rope:
            q, k = self._norm_heads(q, k)
        if context.tables is not None and not reads:  # a memory has no order that the queries share
            q, k = rotate(q, context.tables), rotate(k, context.tables)
        if self.qk_norm_after_rope:
            q, k = self._norm_heads(q, k)
        kind = "cross_attention" if reads else "attention"
        taps = context.taps if context.taps is not None and context.taps.wants(kind) else None
        dropout = self.dropout if self.training else 0.0
        settings = Settings(self.scale, self.softcap, dropout, taps, kind, context.layer)
        slot, bias = context.slot, context.bias
        if reads and context.memory is not None:
            slot, bias = context.reads or Stateless(), context.cross
        return self.output(slot.attend(q, k, v, bias, settings).transpose(1, 2).flatten(2))

    def _keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k, v = together(x, self.k, self.v)
        return self._split(k), self._split(v)

    def _split(self, x: Tensor) -> Float[Tensor, "batch heads time head_dim"]:
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)

    def _norm_heads(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q if self.q_norm is None else self.q_norm(q), k if self.k_norm is None else self.k_norm(k)
