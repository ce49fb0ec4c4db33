"""Causal attention as explicit products over blocks of queries: the lower triangle and little more.

On a CPU in bfloat16, forward and backward, it takes a quarter to a half of the fused kernel's time
(docs/benchmarks.md). Each block of queries is multiplied with the keys up to its end only, so that half of the work
above the diagonal is never done; the softmax happens in place, and the weights are kept for the backward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, library

Heads = Float[Tensor, "batch heads time head_dim"]


def attend_causally(q: Heads, k: Heads, v: Heads, scale: float) -> Heads:
    """softmax(q kᵀ scale) v over each query's own and earlier keys. As many queries as keys, heads alike."""
    mixed, _ = _attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), scale)
    return mixed.view(q.shape)


def block_size(time: int) -> int:
    """Queries in a block: fewer waste less above the diagonal, more keep the products large (measured)."""
    return 128 if time < 1024 else 256


def _blocks(weights: Tensor, rows: int, time: int) -> Iterator[tuple[int, int, Tensor]]:
    """Begin and end of each block of queries, and its weights [rows, end - begin, end] in one long buffer."""
    used, size = 0, block_size(time)
    for begin in range(0, time, size):
        end = min(begin + size, time)
        count = rows * (end - begin) * end
        yield begin, end, weights[used : used + count].view(rows, end - begin, end)
        used += count


def _room(q: Tensor) -> int:
    """How many weights all blocks have together."""
    rows, time, _ = q.shape
    size = block_size(time)
    return rows * sum((min(begin + size, time) - begin) * min(begin + size, time) for begin in range(0, time, size))


# An operator of its own, so that torch.compile takes it as it is and does not spread its in-place steps out again.
@library.custom_op("langwright::causal_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """[rows, time, head_dim] each -> the mixed values, and the weights of all blocks in one buffer."""
    rows, time, _ = q.shape
    mixed, weights, queries = torch.empty_like(q), q.new_empty(_room(q)), q * scale
    above = q.new_full((block_size(time), block_size(time)), -torch.inf).triu_(1)
    for begin, end, block in _blocks(weights, rows, time):
        torch.bmm(queries[:, begin:end], k[:, :end].mT, out=block)
        block[:, :, begin:] += above[: end - begin, : end - begin]
        torch._softmax(block, -1, False, out=block)
        torch.bmm(block, v[:, :end], out=mixed[:, begin:end])
    return mixed, weights


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(_room(q))


@library.custom_op("langwright::causal_attention_backward", mutates_args=())
def _attend_backward(
    upstream: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows, time, _ = q.shape
    to_q, to_k, to_v = (torch.empty_like(x) for x in (q, k, v))
    for begin, end, block in reversed(list(_blocks(weights, rows, time))):  # the last block reaches every key
        above, queries = upstream[:, begin:end], q[:, begin:end]
        to_scores = torch._softmax_backward_data(torch.bmm(above, v[:, :end].mT), block, -1, block.dtype)
        torch.bmm(to_scores, k[:, :end], out=to_q[:, begin:end])
        for whole, left, right in ((to_k[:, :end], to_scores, queries), (to_v[:, :end], block, above)):
            if end == time:
                torch.bmm(left.mT, right, out=whole)
            else:
                torch.baddbmm(whole, left.mT, right, out=whole)
    return to_q.mul_(scale), to_k.mul_(scale), to_v


@_attend_backward.register_fake
def _(
    upstream: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.scale = inputs[3]
    ctx.set_materialize_grads(False)  # the weights have none


def _differentiate(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
    return *_attend_backward(upstream.contiguous(), *ctx.saved_tensors, ctx.scale), None


_attend.register_autograd(_differentiate, setup_context=_remember)
