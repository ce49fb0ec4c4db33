"""Losses as pure functions of tensors. Each returns a sum; the caller divides by the targets of the whole step."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_LOGITS = {"cpu": 2**27, "cuda": 2**28}
"""Logits held at once in `linear_cross_entropy` (256 or 512 MiB in bfloat16): enough tokens to keep its products busy,
and few chunks, for each adds a gradient as large as the weight; elsewhere as on a CPU."""

SLICE_LOGITS = {"cpu": 2**20}
"""Logits whose softmax is worked on at once, in float32: a CPU keeps them in cache; elsewhere a chunk is one."""

LOG2_E = 1.4426950408889634


def token_losses(
    logits: Float[Tensor, "tokens vocabulary"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """-log p(target) of each token in nats, in float32."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch dim"],
    weight: Float[Tensor, "vocabulary dim"],
    targets: Int[Tensor, "*batch"],
    weights: Float[Tensor, "*batch"],
    z_loss: float = 0.0,
    softcap: float | None = None,
    bias: Float[Tensor, " vocabulary"] | None = None,
    compiled: bool = False,
) -> Float[Tensor, ""]:
    """Sum of `weights * (-log p(target) + z_loss * log(Z)²)` with logits = hidden weightᵀ + bias, in nats.

    The logits are never held whole: each chunk of tokens gives its loss and its gradient in one visit, because the
    gradient of a softmax cross-entropy is known as soon as the logits are. log Z is the log of the softmax's
    denominator; keeping it near zero steadies training (PaLM, Chowdhery et al., 2022). softcap: of the logits, as in
    `parts.heads.LanguageHead`. compiled: on a GPU the softmax and its gradient are one compiled kernel each.
    """
    if bias is not None:  # one more column, by which a hidden state of 1 is multiplied
        hidden, weight = F.pad(hidden, (0, 1), value=1.0), torch.cat((weight, bias[:, None].to(weight.dtype)), 1)
    flat = hidden.reshape(-1, hidden.shape[-1])
    if not torch.is_grad_enabled():  # an autograd.Function asks its inputs alone whether gradients are wanted
        flat, weight = flat.detach(), weight.detach()
    slopes = _compiled_slopes() if compiled and hidden.is_cuda else _losses_and_slopes
    return _LinearCrossEntropy.apply(flat, weight, targets.reshape(-1), weights.reshape(-1), z_loss, softcap, slopes)  # type: ignore[no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        z_loss: float,
        softcap: float | None,
        losses_and_slopes: Callable[..., Tensor],
    ) -> Tensor:
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        cast = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if to_hidden else hidden
        grad_weight: Tensor | None = None
        size = _chunk_tokens(weight.shape[0], hidden.device)
        parts = (x.split(size) for x in (hidden, targets, weights, grad_hidden))
        for h, t, w, g in zip(*parts, strict=True):
            logits = F.linear(h, cast)
            total += losses_and_slopes(logits, t, w, z_loss, softcap, to_hidden or to_weight)
            if to_hidden:  # the logits are now the slopes of the loss
                torch.mm(logits, cast, out=g)
            if to_weight:
                product = logits.t() @ h
                grad_weight = product if grad_weight is None else grad_weight.float().add_(product)
        ctx.save_for_backward(grad_hidden if to_hidden else None, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # A CPU sees at once that nothing is to be scaled, and is spared a pass over gradients as large as the head.
        if upstream[0].device.type != "cpu" or upstream[0] != 1:
            grad_hidden = None if grad_hidden is None else grad_hidden * upstream[0].to(grad_hidden.dtype)
            grad_weight = None if grad_weight is None else grad_weight * upstream[0]
        return grad_hidden, None if grad_weight is None else grad_weight.to(ctx.weight_dtype), *[None] * 5


def _chunk_tokens(vocabulary: int, device: torch.device) -> int:
    """Tokens in a chunk: a multiple of 256 where so many fit, since odd sizes cost products a third of their speed."""
    tokens = CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cpu"]) // vocabulary
    return max(1, tokens - tokens % 256 if tokens > 256 else tokens)


def _losses_and_slopes(
    logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float, softcap: float | None, wants_slopes: bool
) -> Tensor:
    """The sum of the losses of some tokens; where wanted, `logits` are overwritten by the derivatives to them."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    size = max(1, SLICE_LOGITS.get(logits.device.type, logits.numel()) // logits.shape[1])
    for x, t, w in zip(logits.split(size), targets.split(size), weights.split(size), strict=True):
        y = x.float()
        if softcap is not None:  # tanh(y) = 2 sigmoid(2y) - 1, whose kernel is ten times as fast on a CPU
            squeezed = (y * (2 / softcap)).sigmoid_().mul_(2).sub_(1)
            y = squeezed * softcap
        top = y.amax(-1, keepdim=True)
        y = y.sub_(top)
        right = y.gather(1, t[:, None])[:, 0]
        odds = y.mul_(LOG2_E).exp2_()  # exp, with a faster kernel on a CPU
        z = odds.sum(-1)
        log_z = z.log() + top[:, 0]
        total += (w * (z.log() - right + z_loss * log_z.square())).sum()
        if wants_slopes:
            slopes = odds.mul_((w * (1 + 2 * z_loss * log_z) / z)[:, None])
            if torch.compiler.is_compiling():  # in the same pass as the rest
                slopes = slopes - w[:, None] * (torch.arange(slopes.shape[1], device=t.device) == t[:, None])
            else:
                slopes.scatter_add_(1, t[:, None], -w[:, None])
            if softcap is not None:
                slopes *= squeezed.square_().neg_().add_(1)
            x.copy_(slopes)
    return total


@cache
def _compiled_slopes() -> Callable[..., Tensor]:
    return torch.compile(_losses_and_slopes, dynamic=False)
