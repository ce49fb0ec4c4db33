"""Scaled dot-product attention (Vaswani et al., 2017): multi-head, multi-query, grouped-query; self or cross."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from langwright.parts.bias import Lowered
from langwright.parts.causal_attention import attend_causally, prefers_blocks
from langwright.parts.cross_memory import CrossMemory
from langwright.parts.flash_attention import attend_tiled
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm
from langwright.parts.positions import Tables, rotate
from langwright.parts.state import Taps

Queries = Float[Tensor, "batch heads queries head_dim"]
Keys = Float[Tensor, "batch kv_heads keys head_dim"]
Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

EXPLICIT_BELOW = 512
"""On a CPU in bfloat16 the explicit product is faster than the fused kernel below this many keys (measured)."""


class Cross(NamedTuple):
    """What cross-attention is told in place of the bias of its layer: the memory, and which of it is padding."""

    bias: Lowered
    explicit: bool
    memory: CrossMemory


class Context(NamedTuple):
    """What a stack tells each branch of one layer besides the hidden state. real: which tokens are; None means all.

    segments: the document of each token, where a row packs several.
    """

    bias: Lowered
    explicit: bool
    tables: Tables | None = None
    extend: Extend | None = None
    taps: Taps | None = None
    layer: int = 0
    cross: Cross | None = None
    real: Bool[Tensor, "batch time"] | None = None
    segments: Int[Tensor, "batch time"] | None = None


def prefers_explicit(hidden: Tensor, keys: int) -> bool:
    """Whether the explicit product is the faster path for this device, dtype and length, where a bias is added.

    It is so in training alone, for the fused kernel's backward pass is what takes long. Its forward pass is faster, and
    closer to float32: it never rounds the scores.
    """
    slow = hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16 and torch.is_grad_enabled()
    return slow and keys < EXPLICIT_BELOW


def attend_explicitly(
    q: Queries, k: Keys, v: Keys, bias: Lowered, scale: float, dropout: float = 0.0, softcap: float | None = None
) -> tuple[Queries, Float[Tensor, "batch heads queries keys"]]:
    """softmax(q kᵀ scale + bias) v, step by step; also returns the weights. `bias` must be in additive form.

    softcap: squeezes the product into (-softcap, softcap), before the bias.
    """
    if bias.causal or bias.allowed is not None:
        raise ValueError("the explicit product takes a bias in additive form: call Lowered.additive first")
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    if _shares_keys(q, k, bias):
        mixed, weights = attend_explicitly(_grouped(q, k), k, v, bias, scale, dropout, softcap)
        return mixed.reshape(q.shape), weights.view(batch, heads, 1, keys)
    q3, k3, v3 = (_for_each_head(x, heads).flatten(0, 1) for x in (q, k, v))
    added: Tensor | None = None
    if bias.scores is not None:
        shared = bias.scores.shape[:2] == (1, 1)
        added = bias.scores[0] if shared else bias.scores.expand(batch, heads, -1, -1).flatten(0, 1)
    if softcap is not None:
        capped = torch.bmm(q3 * (scale / softcap), k3.transpose(1, 2)).tanh_()
        scores = capped * softcap if added is None else torch.add(added, capped, alpha=softcap)
    elif added is None:
        scores = torch.bmm(q3 * scale, k3.transpose(1, 2))
    else:
        scores = torch.baddbmm(added, q3, k3.transpose(1, 2), alpha=scale)
    weights = scores.softmax(-1)
    mixed = torch.bmm(F.dropout(weights, dropout) if dropout else weights, v3)
    return mixed.view(batch, heads, queries, -1), weights.view(batch, heads, queries, keys)


def _shares_keys(q: Queries, k: Keys, bias: Lowered) -> bool:
    """Whether heads with the same keys may stand as queries of one head, so that no key is written out again."""
    alike = bias.scores is None or bias.scores.shape[1] == 1
    return q.shape[2] == 1 and q.shape[1] != k.shape[1] and not bias.causal and alike


def _grouped(q: Queries, k: Keys) -> Float[Tensor, "batch kv_heads group head_dim"]:
    """A single query of each head, as the queries of one head for each of the keys'."""
    return q.reshape(len(q), k.shape[1], -1, q.shape[3])


def _for_each_head(x: Keys, heads: int) -> Queries:
    """Keys or values, written out once for each head of the queries."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def attend_fused(q: Queries, k: Keys, v: Keys, bias: Lowered, scale: float, dropout: float = 0.0) -> Queries:
    """The same through PyTorch's fused kernels, which never store the weights."""
    if _shares_keys(q, k, bias):
        return attend_fused(_grouped(q, k), k, v, bias, scale, dropout).reshape(q.shape)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        bias.allowed if bias.scores is None else bias.scores,
        dropout,
        bias.causal,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


class Attention(nn.Module):
    """Queries read keys and values: MHA (`kv_heads == heads`), MQA (`kv_heads == 1`) and GQA in one class.

    dim: width of the input and output. head_dim: width of a head, `dim / heads` unless given.
    bias: which of the four projections carry a bias, a subset of "qkvo".
    scale: multiplies the scores, `head_dim ** -0.5` unless given.
    qk_norm: makes the norm over each head of q and of k, given the head's width; None for no norm.
    qk_norm_after_rope: whether it comes after the rotation (NanoChat) instead of before (Qwen3).
    softcap: of the scores, before who sees whom is added (Gemma 2); the product is then always the explicit one.
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
        if self.memory_dim is not None:
            return self._read(x, context)
        batch, time, _ = x.shape
        q, k, v = (project(x).view(batch, time, -1, self.head_dim) for project in (self.q, self.k, self.v))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.clip is not None:
            q, k, v = (x.clamp(-self.clip, self.clip) for x in (q, k, v))
        if not self.qk_norm_after_rope:
            q, k = self._norm_heads(q, k)
        if context.tables is not None:
            q, k = rotate(q, context.tables), rotate(k, context.tables)
        if self.qk_norm_after_rope:
            q, k = self._norm_heads(q, k)
        if context.extend is not None:
            k, v = context.extend(k, v)
        return self._attend(q, k, v, context.bias, context.explicit, context, "attention")

    def _read(self, x: Tensor, context: Context) -> Tensor:
        """Cross-attention: as above, with keys and values of the memory, which has no order that the queries share."""
        if context.cross is None:
            raise ValueError("this attention reads a memory, and the stack was given none")
        q = self.q(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
        k, v = context.cross.memory.keys_values(context.layer, self._keys_values)
        q, k = self._norm_heads(q, k)
        return self._attend(q, k, v, context.cross.bias, context.cross.explicit, context, "cross_attention")

    def _keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        k, v = (project(memory).view(*memory.shape[:2], -1, self.head_dim) for project in (self.k, self.v))
        return k.transpose(1, 2), v.transpose(1, 2)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Lowered, explicit: bool, context: Context, kind: str
    ) -> Tensor:
        """Mix the values by the path that was chosen; weights go to the taps under the name `kind`."""
        dropout = self.dropout if self.training else 0.0
        blocks = not dropout and prefers_blocks(q)  # which drop nothing
        if bias.causal and not blocks and prefers_explicit(q, k.shape[2]):
            explicit = True
        if bias.described is not None:
            if dropout or self.softcap is not None:
                raise ValueError("attention in tiles has neither dropout nor a cap: leave Stack.tiled False")
            mixed = attend_tiled(q, k, v, *bias.described, self.scale)
        elif explicit or self.softcap is not None:
            bias = bias.additive(q.shape[2], k.shape[2], q)
            mixed, weights = attend_explicitly(q, k, v, bias, self.scale, dropout, self.softcap)
            if context.taps is not None and context.taps.wants(kind):
                context.taps.put(kind, context.layer, weights)
        elif bias.causal and blocks:
            mixed = attend_causally(q, _for_each_head(k, self.heads), _for_each_head(v, self.heads), self.scale)
        else:
            mixed = attend_fused(q, k, v, bias, self.scale, dropout)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _norm_heads(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q if self.q_norm is None else self.q_norm(q), k if self.k_norm is None else self.k_norm(k)
