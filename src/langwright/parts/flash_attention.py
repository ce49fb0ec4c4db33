"""FlashAttention (Dao et al., 2022; Dao, 2023) in plain PyTorch: exact attention that never holds all the weights.

Queries and keys are cut into tiles. A tile's scores are made, used and forgotten; the softmax over a row is put
together from its tiles (the online softmax of Milakov and Gimelshein, 2018). Kept for the backward pass are the output
and one number a query, the logarithm of the sum of its exponentials, from which every weight is made again.

Beyond its inputs and outputs it takes memory that grows with the time, not with its square. On a GPU the same steps in
one kernel are also fast, because a tile stays in the memory beside the arithmetic; here they are for reading, and
`attend_fused` is for speed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from langwright.parts.bias import Bias, Places
from langwright.parts.linear import wide
from langwright.parts.state import Keys, Queries

Scores = Float[Tensor, "batch kv_heads group rows columns"]


def attend_tiled(q: Queries, k: Keys, v: Keys, bias: Bias, places: Places, scale: float, tile: int = 128) -> Queries:
    """softmax(q kᵀ scale + bias) v, tile by tile; a query that may see no key gives 0.

    bias, places: who sees whom, as a description: its mask is made for one tile at a time. tile: queries and keys in a
    tile. Raises ValueError for a bias whose term is learned, since no gradient reaches it here.
    """
    if isinstance(bias.term, nn.Module):
        raise ValueError("a learned term of the bias needs its gradient: take the explicit or the fused path")
    batch, heads, _, _ = q.shape
    grouped = q.view(batch, k.shape[1], heads // k.shape[1], *q.shape[2:])  # heads that share keys lie side by side
    mixed: Tensor = _Tiled.apply(grouped, k[:, :, None], v[:, :, None], bias, places, scale, tile)  # type: ignore[no-untyped-call]
    return mixed.flatten(1, 2)


class _Tiled(torch.autograd.Function):
    """q [batch, kv_heads, group, queries, head_dim], k and v [batch, kv_heads, 1, keys, head_dim]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Bias, places: Places, scale: float, tile: int
    ) -> Tensor:
        """For each row: the largest score so far, the sum of exp(score - largest), and the values weighted so."""
        mixed, log_sum = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=wide(q))
        for rows in _tiles(q.shape[-2], tile):
            largest = log_sum.new_full((*log_sum[..., rows].shape, 1), -torch.inf)
            total, weighted = torch.zeros_like(largest), torch.zeros_like(q[..., rows, :], dtype=wide(q))
            for columns in _tiles(k.shape[-2], tile):
                scores = _scores(q, k, bias, places, scale, rows, columns)
                if scores is None:
                    continue
                new = torch.maximum(largest, scores.amax(-1, keepdim=True))
                base = new.masked_fill(new == -torch.inf, 0)  # a row that has seen no key yet
                weights, shrink = torch.exp(scores - base), torch.exp(largest - base)
                total = shrink * total + weights.sum(-1, keepdim=True)
                weighted = shrink * weighted + weights @ v[..., columns, :].to(weights.dtype)
                largest = new
            blind = total == 0
            mixed[..., rows, :] = (weighted / total.masked_fill(blind, 1)).to(q.dtype)
            log_sum[..., rows] = (largest.masked_fill(blind, 0) + total.log()).squeeze(-1)
        ctx.save_for_backward(q, k, v, mixed, log_sum)
        ctx.rest = bias, places, scale, tile
        return mixed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Weights are exp(score - log_sum), made again; d score = weight * (d weight - sum of weight * d weight).

        That sum over a row's keys is upstream · mixed: known without them.
        """
        q, k, v, mixed, log_sum = ctx.saved_tensors
        bias, places, scale, tile = ctx.rest
        to_q, to_k, to_v = (torch.zeros_like(x, dtype=wide(x)) for x in (q, k, v))
        for rows in _tiles(q.shape[-2], tile):
            above = upstream[0][..., rows, :].to(log_sum.dtype)
            along = (above * mixed[..., rows, :]).sum(-1, keepdim=True)
            for columns in _tiles(k.shape[-2], tile):
                scores = _scores(q, k, bias, places, scale, rows, columns)
                if scores is None:
                    continue
                reach = log_sum[..., rows, None]
                weights = torch.exp(scores - reach.masked_fill(reach == -torch.inf, 0))
                to_scores = weights * (above @ v[..., columns, :].to(above.dtype).mT - along) * scale
                to_q[..., rows, :] += to_scores @ k[..., columns, :].to(above.dtype)
                to_k[..., columns, :] += (to_scores.mT @ q[..., rows, :].to(above.dtype)).sum(2, keepdim=True)
                to_v[..., columns, :] += (weights.mT @ above).sum(2, keepdim=True)
        return to_q.to(q.dtype), to_k.to(k.dtype), to_v.to(v.dtype), None, None, None, None


def _tiles(length: int, tile: int) -> Iterator[slice]:
    return (slice(begin, min(begin + tile, length)) for begin in range(0, length, tile))


def _scores(
    q: Tensor, k: Tensor, bias: Bias, places: Places, scale: float, rows: slice, columns: slice
) -> Scores | None:
    """The scores of one tile, -inf where a query may not see a key; None where none may, as above the diagonal."""
    segments = places.query_segments, places.key_segments
    here = Places(
        places.query[:, rows],
        places.key[:, columns],
        False,
        None if segments[0] is None else segments[0][:, rows],
        None if segments[1] is None else segments[1][:, columns],
    )
    allowed = bias.allowed(here)
    if not allowed.any():
        return None
    scores = scale * q[..., rows, :].to(wide(q)) @ k[..., columns, :].to(wide(q)).mT
    if bias.term is not None:
        scores += bias.term(here, wide(q)).unflatten(1, scores.shape[1:3])
    return scores.masked_fill_(~allowed[:, None], -torch.inf)
