"""The kernels of attention, and the one function that chooses among them."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from langwright.parts.bias import Lowered, Places
from langwright.parts.causal_attention import attend_causally
from langwright.parts.flash_attention import attend_tiled
from langwright.parts.kept import Cache, rounded
from langwright.parts.state import Keys, NewTokens, Queries, Settings

Kernel = Literal["explicit", "blocks", "tiles", "fused"]

EXPLICIT_BELOW = 512
"""On a CPU in bfloat16 the explicit product is faster than the fused kernel below this many keys (measured)."""
BLOCKS_FROM, BLOCKS_TO, MOST_WEIGHTS = 65, 2048, 2**27
"""In fewer queries blocks leave too little out. They keep the weights, whose memory grows with the square of the time:
beyond `BLOCKS_TO`, or so many, the fused kernel serves, which keeps none."""


def choose_kernel(q: Queries, keys: int, bias: Lowered, settings: Settings) -> Kernel:
    """The fastest kernel that does what is asked.

    On a CPU in bfloat16 the backward pass of the fused kernels takes long, so training has two others: blocks of the
    causal triangle, which drop nothing, and for short texts the explicit product. Without gradients the fused kernel
    is faster, and closer to float32, since it never rounds the scores.

    Args:
        q: the queries.
        keys: their number.
        bias: in the form that the stack lowered it to.
        settings: soft-cap, dropout and watched weights are what the explicit product alone, or not all, can do.
    """
    if bias.tiled and settings.taps is None:
        return "tiles"
    if settings.taps is not None or settings.softcap is not None:
        return "explicit"
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled():
        batch, heads, queries, _ = q.shape
        few = batch * heads * queries**2 <= MOST_WEIGHTS
        if bias.causal and not settings.dropout and BLOCKS_FROM <= queries <= BLOCKS_TO and few:
            return "blocks"
        if keys < EXPLICIT_BELOW:
            return "explicit"
    return "fused"


def attend(q: Queries, k: Keys, v: Keys, bias: Lowered, settings: Settings) -> Queries:
    """softmax(q kᵀ scale + bias) v by the kernel that is chosen here."""
    batch, heads, queries, _ = q.shape
    kernel = choose_kernel(q, k.shape[2], bias, settings)
    if kernel == "tiles":
        if settings.dropout or settings.softcap is not None:
            raise ValueError("attention in tiles has neither dropout nor a cap: leave Stack.tiled False")
        assert bias.described is not None
        return attend_tiled(q, k, v, *bias.described, settings.scale)
    if kernel == "blocks":
        return attend_causally(q, _for_each_head(k, heads), _for_each_head(v, heads), settings.scale)
    if bias.tiled:
        assert bias.described is not None
        bias = bias.described[0].lower(bias.described[1], q.dtype)
    shape = q.shape
    if queries == 1 and heads != k.shape[1] and (bias.scores is None or bias.scores.shape[1] == 1):
        # A single query of each head: those with the same keys stand as queries of one head, so that no key is
        # written out again.
        q = q.reshape(batch, k.shape[1], -1, q.shape[3])
    if kernel == "fused":
        return attend_fused(q, k, v, bias, settings.scale, settings.dropout).view(shape)
    mixed, weights = attend_explicitly(q, k, v, bias, settings.scale, settings.dropout, settings.softcap)
    if settings.taps is not None:
        settings.taps.put(settings.kind, settings.layer, weights.view(batch, heads, queries, -1))
    return mixed.view(shape)


class Stateless:
    """The state of a call that remembers nothing, as in training, and the slot of each of its layers.

    cache: keys and values are what such a cache would give back.
    """

    length = 0
    cache: Cache = "full"

    def __init__(self, cache: Cache = "full"):
        self.cache = cache

    def begin(self, new: NewTokens) -> Places:
        """Where the tokens stand."""
        query, key = new.counted()
        return Places(query, key, new.plain, new.segments, new.segments)

    def slot(self, layer: int) -> "Stateless":
        """Itself: no layer keeps anything."""
        return self

    def attend(self, q: Queries, k: Keys, v: Keys, bias: Lowered, settings: Settings) -> Queries:
        """Attention among the given tokens (see `parts.state.Slot`)."""
        return attend(q, rounded(k, self.cache), rounded(v, self.cache), bias, settings)


def attend_explicitly(
    q: Queries, k: Keys, v: Keys, bias: Lowered, scale: float, dropout: float = 0.0, softcap: float | None = None
) -> tuple[Queries, Float[Tensor, "batch heads queries keys"]]:
    """softmax(q kᵀ scale + bias) v, step by step; also returns the weights.

    softcap: squeezes the product into (-softcap, softcap), before the bias.
    """
    batch, heads, queries, _ = q.shape
    q3, k3, v3 = (_for_each_head(x, heads).flatten(0, 1) for x in (q, k, v))
    added = bias.additive(queries, k.shape[2], q).scores
    if added is not None:
        added = added[0] if added.shape[:2] == (1, 1) else added.expand(batch, heads, -1, -1).flatten(0, 1)
    if softcap is not None:
        capped = torch.bmm(q3 * (scale / softcap), k3.transpose(1, 2)).tanh_()
        scores = capped * softcap if added is None else torch.add(added, capped, alpha=softcap)
    elif added is None:
        scores = torch.bmm(q3 * scale, k3.transpose(1, 2))
    else:
        scores = torch.baddbmm(added, q3, k3.transpose(1, 2), alpha=scale)
    weights = scores.softmax(-1)
    mixed = torch.bmm(F.dropout(weights, dropout) if dropout else weights, v3)
    return mixed.view(batch, heads, queries, -1), weights.view(batch, heads, queries, -1)


def _for_each_head(x: Keys, heads: int) -> Queries:
    """Keys or values, written out once for each head of the queries."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def attend_fused(q: Queries, k: Keys, v: Keys, bias: Lowered, scale: float, dropout: float = 0.0) -> Queries:
    """The same through PyTorch's fused kernels, which never store the weights."""
    added, shared = bias.allowed if bias.scores is None else bias.scores, q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, added, dropout, bias.causal, scale=scale, enable_gqa=shared)
