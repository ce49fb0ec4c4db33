"""Losses as pure functions of tensors. Each returns a sum; the caller divides by the targets of the whole step."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_LOGITS = 2**20
"""Logits in flight at once in `linear_cross_entropy`: they stay in cache on a CPU and small on a GPU."""


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
) -> Float[Tensor, ""]:
    """Sum of `weights * (-log p(target) + z_loss * log(Z)²)` with logits = hidden weightᵀ, in nats.

    The logits are never held whole: each chunk of tokens gives its loss and its gradient in one visit, because the
    gradient of a softmax cross-entropy is known as soon as the logits are. log Z is the log of the softmax's
    denominator; keeping it near zero steadies training (PaLM, Chowdhery et al., 2022). softcap: of the logits, as in
    `parts.heads.LanguageHead`.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    if not torch.is_grad_enabled():  # an autograd.Function asks its inputs alone whether gradients are wanted
        flat, weight = flat.detach(), weight.detach()
    return _LinearCrossEntropy.apply(flat, weight, targets.reshape(-1), weights.reshape(-1), z_loss, softcap)  # type: ignore[no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, z_loss: float, softcap: float | None
    ) -> Tensor:
        wants_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        cast = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_grad else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_grad else None
        size = max(1, CHUNK_LOGITS // weight.shape[0])
        for h, t, w, g in zip(
            hidden.split(size), targets.split(size), weights.split(size),
            hidden.split(size) if grad_hidden is None else grad_hidden.split(size), strict=True,
        ):  # fmt: skip
            logits = F.linear(h, cast).float()
            if softcap is not None:
                squeezed = logits.div_(softcap).tanh_()
                logits = squeezed * softcap
            log_z = logits.logsumexp(-1)
            total += (w * (log_z - logits.gather(1, t[:, None])[:, 0] + z_loss * log_z.square())).sum()
            if grad_weight is not None:
                scale = w * (1 + 2 * z_loss * log_z)
                slope = logits.sub_(log_z[:, None]).exp_().mul_(scale[:, None])
                slope.scatter_add_(1, t[:, None], -w[:, None])
                if softcap is not None:
                    slope *= squeezed.square_().neg_().add_(1)
                slope = slope.to(hidden.dtype)
                torch.mm(slope, cast, out=g)
                grad_weight += slope.t() @ h
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            grad_hidden * upstream[0].to(grad_hidden.dtype),
            (grad_weight * upstream[0]).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
        )
