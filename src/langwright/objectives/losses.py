"""Losses as pure functions of tensors, and log-probabilities. A loss is a sum; the caller divides by the targets of
the whole step."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from langwright.parts.heads import Projection

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


def logits_of(p: Projection, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocabulary"]:
    """The logits of some of the hidden states of a projection."""
    logits = F.linear(hidden * p.scale, p.weight.to(hidden.dtype), None if p.bias is None else p.bias.to(hidden.dtype))
    logits = logits if p.offset is None else logits + p.offset.to(logits.dtype)
    return logits if p.softcap is None else p.softcap * torch.tanh(logits / p.softcap)


def log_probabilities(
    projection: Projection, targets: Int[Tensor, "*batch"], temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """log p(target) of each token in nats, in float32, of logits that are divided by the temperature."""
    return _by_token(lambda logits, tokens: -token_losses(logits.float() / temperature, tokens), projection, targets)


def entropies(
    projection: Projection, targets: Int[Tensor, "*batch"], temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """The entropy of the distribution of each token in nats; of the targets only the shape counts."""

    def entropy(logits: Tensor, tokens: Tensor) -> Tensor:
        said = (logits.float() / temperature).log_softmax(-1)
        return -(said.exp() * said.clamp(min=torch.finfo(said.dtype).min)).sum(-1)

    return _by_token(entropy, projection, targets)


def _by_token(
    measure: Callable[[Tensor, Tensor], Tensor], projection: Projection, targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """A number for each token, of its logits and target; logits that do not fit at once are computed again on the way
    back."""

    def part(hidden: Tensor, tokens: Tensor) -> Tensor:
        return measure(logits_of(projection, hidden), tokens)

    hidden, tokens = projection.hidden.flatten(0, -2), targets.flatten()
    size = _chunk_tokens(projection.weight.shape[0], hidden.device)
    if len(tokens) <= size:
        return part(hidden, tokens).view_as(targets)
    chunks = zip(hidden.split(size), tokens.split(size), strict=True)
    return torch.cat([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks]).view_as(targets)


def linear_cross_entropy(
    projection: Projection,
    targets: Int[Tensor, "*batch"],
    weights: Float[Tensor, "*batch"],
    z_loss: float = 0.0,
    compiled: bool = False,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Sum of `weights * (-log p(target) + z_loss * log(Z)²)` in nats, without ever holding all logits.

    Each chunk of tokens gives its loss and its gradient in one visit, because the gradient of a softmax cross-entropy
    is known as soon as the logits are. log Z is the log of the softmax's denominator; keeping it near zero steadies
    training (PaLM, Chowdhery et al., 2022).

    Args:
        projection: what the logits are made of, from `head.projection(hidden)`.
        targets: the token that each position should predict.
        weights: how much each target counts.
        z_loss: weight of log(Z)².
        compiled: on a GPU the softmax and its gradient are one compiled kernel each.
        smoothing: the share of each target that is spread evenly over the vocabulary, the target included, so that
            the shares sum to one (label smoothing, Szegedy et al., 2016).
    """
    p = projection
    hidden, weight, bias = p.hidden if p.scale == 1 else p.hidden * p.scale, p.weight, p.bias
    if p.offset is not None:
        bias = p.offset if bias is None else bias + p.offset
    flat = hidden.reshape(-1, hidden.shape[-1])
    if not torch.is_grad_enabled():  # an autograd.Function asks its inputs alone whether gradients are wanted
        flat, weight, bias = flat.detach(), weight.detach(), None if bias is None else bias.detach()
    slopes = _compiled_slopes() if compiled and hidden.is_cuda else _losses_and_slopes
    tensors = flat, weight, bias, targets.reshape(-1), weights.reshape(-1)
    return _LinearCrossEntropy.apply(*tensors, z_loss, smoothing, p.softcap, slopes)  # type: ignore[no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        z_loss: float,
        smoothing: float,
        softcap: float | None,
        losses_and_slopes: Callable[..., Tensor],
    ) -> Tensor:
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        cast, added = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if to_hidden else hidden
        grad_weight = grad_bias = None
        size = _chunk_tokens(weight.shape[0], hidden.device)
        parts = (x.split(size) for x in (hidden, targets, weights, grad_hidden))
        for h, t, w, g in zip(*parts, strict=True):
            logits = F.linear(h, cast, added)
            total += losses_and_slopes(logits, t, w, z_loss, smoothing, softcap, to_hidden or to_weight or to_bias)
            if to_hidden:  # the logits are now the slopes of the loss
                torch.mm(logits, cast, out=g)
            if to_weight:
                product = logits.t() @ h
                grad_weight = product if grad_weight is None else grad_weight.float().add_(product)
            if to_bias:
                column = logits.sum(0, dtype=torch.float32)
                grad_bias = column if grad_bias is None else grad_bias.add_(column)
        ctx.save_for_backward(grad_hidden if to_hidden else None, grad_weight, grad_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, *others = ctx.saved_tensors
        # A CPU sees at once that nothing is to be scaled, and is spared a pass over gradients as large as the head.
        if upstream[0].device.type != "cpu" or upstream[0] != 1:
            for gradient in (grad_hidden, *others):
                if gradient is not None:
                    gradient.mul_(upstream[0])  # in place: they are this function's own, and as large as the head
        cast = (None if g is None else g.to(dtype) for g, dtype in zip(others, ctx.dtypes, strict=True))
        return grad_hidden, *cast, *[None] * 6


def _chunk_tokens(vocabulary: int, device: torch.device) -> int:
    """Tokens in a chunk: a multiple of 256 where so many fit, since odd sizes cost products a third of their speed."""
    tokens = CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cpu"]) // vocabulary
    return max(1, tokens - tokens % 256 if tokens > 256 else tokens)


def _losses_and_slopes(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    z_loss: float,
    smoothing: float,
    softcap: float | None,
    wants_slopes: bool,
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
        if smoothing:
            right = right * (1 - smoothing) + y.mean(-1) * smoothing
        odds = y.mul_(LOG2_E).exp2_()  # exp, with a faster kernel on a CPU
        z = odds.sum(-1)
        log_z = z.log() + top[:, 0]
        total += (w * (z.log() - right + z_loss * log_z.square())).sum()
        if wants_slopes:
            slopes = odds.mul_((w * (1 + 2 * z_loss * log_z) / z)[:, None])
            if smoothing:
                slopes -= (w * (smoothing / slopes.shape[1]))[:, None]
            sure = w[:, None] * (1 - smoothing)
            if torch.compiler.is_compiling():  # in the same pass as the rest
                slopes = slopes - sure * (torch.arange(slopes.shape[1], device=t.device) == t[:, None])
            else:
                slopes.scatter_add_(1, t[:, None], -sure)
            if softcap is not None:
                slopes *= squeezed.square_().neg_().add_(1)
            x.copy_(slopes)
    return total


@cache
def _compiled_slopes() -> Callable[..., Tensor]:
    return torch.compile(_losses_and_slopes, dynamic=False)
