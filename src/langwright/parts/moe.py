"""Mixture of experts: every token is fed forward by a few of many (Shazeer et al., 2017; Fedus et al., 2021)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from langwright.parts.attention import Context
from langwright.parts.linear import Linear, wide

PerToken = Float[Tensor, "*rows tokens experts"]
Documents = Float[Tensor, "*rows tokens documents"]


class MoE(nn.Module):
    """The `active` experts that a router finds likeliest for a token, mixed by their probabilities.

    Taps of kind "router" hold the router's logits, [batch, time, experts]; they are float32 in every model, since
    rounding them would send tokens elsewhere. Those of kind "auxiliary" hold the auxiliary loss.

    Args:
        dim: width of the hidden states.
        experts: modules with the call of a feed-forward.
        active: how many experts read each token.
        renormalise: whether the chosen probabilities are made to sum to 1.
        capacity: most tokens of one row that an expert takes in one call; it gives 0 for those that come after, so that
            the residual carries them on unchanged. Padding takes no room. None: it takes all.
        bias: whether the router has one.
        jitter: in training the router reads its input times noise within 1 ± jitter.
        balance, z_loss: weights of `load_balance` and `router_z_loss` in the auxiliary loss, [batch, time]: for
            each token that of its document, so that padding and neighbours change nothing.
    """

    def __init__(
        self,
        dim: int,
        experts: Sequence[nn.Module],
        active: int,
        renormalise: bool = True,
        capacity: int | None = None,
        bias: bool = False,
        jitter: float = 0.0,
        balance: float = 0.0,
        z_loss: float = 0.0,
    ):
        super().__init__()
        self.router = Linear(dim, len(experts), bias)
        self.experts = nn.ModuleList(experts)
        self.active, self.renormalise, self.capacity, self.jitter = active, renormalise, capacity, jitter
        self.balance, self.z_loss = balance, z_loss

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        seen = x.to(wide(x))
        if self.training and self.jitter:
            seen = seen * torch.empty_like(seen).uniform_(1 - self.jitter, 1 + self.jitter)
        logits = self.router(seen)
        chances = logits.softmax(-1)
        weights, chosen = chances.topk(self.active, -1)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        taken = chosen
        if self.capacity is not None:
            taken = chosen.masked_fill(~has_room(chosen, len(self.experts), self.capacity, context.real), -1)
        mixed = self._mix(x.flatten(0, 1), taken.flatten(0, 1), weights.flatten(0, 1), context)
        if context.taps is not None and context.taps.wants("router"):
            context.taps.put("router", context.layer, logits)
        if context.taps is not None and context.taps.wants("auxiliary"):
            documents = _documents(logits, context)
            loss = self.balance * load_balance(chances, chosen, documents)
            loss = loss + self.z_loss * router_z_loss(logits, documents)
            context.taps.put("auxiliary", context.layer, (documents @ loss[..., None])[..., 0])
        return mixed.view(x.shape)

    def _mix(self, tokens: Tensor, taken: Tensor, weights: Tensor, context: Context) -> Tensor:
        """The outputs of the experts for their tokens, weighted; zeros where -1 says that no expert took a choice.

        Choices are sorted by expert, so that each reads its tokens as one piece. An expert without tokens is not
        called; where gradients are wanted its are zeros, as in every other step, instead of None.
        """
        none, *counts = torch.bincount(taken.flatten() + 1, minlength=len(self.experts) + 1).tolist()
        order = taken.flatten().argsort(stable=True)
        pieces = tokens.index_select(0, order[none:] // taken.shape[1]).split(counts)
        asked = [(e, piece) for e, piece in zip(self.experts, pieces, strict=True) if len(piece)]
        said = [tokens.new_zeros(none, tokens.shape[1]), *(expert(piece[None], context)[0] for expert, piece in asked)]
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        answers = torch.cat(said).index_select(0, back).view(*taken.shape, tokens.shape[1])
        first, *others = zip(answers.unbind(1), weights[..., None].to(tokens.dtype).unbind(1), strict=True)
        mixed = first[0] * first[1]
        for answer, weight in others:
            mixed = torch.addcmul(mixed, answer, weight)
        if torch.is_grad_enabled() and 0 in counts:
            idle = [e for e, count in zip(self.experts, counts, strict=True) if not count]
            mixed = mixed + 0 * sum(p.flatten()[0] for e in idle for p in e.parameters())
        return mixed


def has_room(
    chosen: Int[Tensor, "batch time active"],
    experts: int,
    capacity: int,
    real: Bool[Tensor, "batch time"] | None = None,
) -> Bool[Tensor, "batch time active"]:
    """Whether the expert of each choice still takes it: first choices before second ones, then earlier tokens first.

    real: where there is no padding, which waits nowhere.
    """
    queue = chosen.mT.flatten(1)
    waiting = F.one_hot(queue, experts)
    if real is not None:
        waiting = waiting * real.repeat(1, chosen.shape[2]).unsqueeze(-1)
    places = waiting.cumsum(1).gather(2, queue.unsqueeze(-1))  # 1 for the first who comes
    return (places <= capacity).view(chosen.mT.shape).mT


def _documents(like: Float[Tensor, "batch time _"], context: Context) -> Float[Tensor, "batch time documents"]:
    """1 where a token belongs to a document of its row, 0 where it belongs to another or is padding."""
    real = torch.ones_like(like[..., 0]) if context.real is None else context.real.to(like.dtype)
    if context.segments is None:
        return real[..., None]
    return F.one_hot(context.segments - context.segments.min()) * real[..., None]


def load_balance(
    chances: PerToken, chosen: Int[Tensor, "*rows tokens active"], documents: Documents
) -> Float[Tensor, "*rows documents"]:
    """experts * Σ_e share_e * chance_e of each document: `active` when all experts have the same work.

    share: choices of an expert over tokens. chance: its mean probability, through which gradients flow (Switch
    Transformer, Fedus et al., 2021, equations 4 to 6). documents: see `_documents`.
    """
    experts = chances.shape[-1]
    counted = _shares(documents)
    shares = counted @ F.one_hot(chosen, experts).sum(-2).to(chances.dtype)
    return experts * (shares * (counted @ chances)).sum(-1)


def router_z_loss(logits: PerToken, documents: Documents) -> Float[Tensor, "*rows documents"]:
    """The mean of (ln Σ exp logits)² of each document, which keeps logits small (ST-MoE, Zoph et al., 2022)."""
    return (_shares(documents) @ logits.logsumexp(-1).square()[..., None])[..., 0]


def _shares(documents: Documents) -> Float[Tensor, "*rows documents tokens"]:
    """What each token counts for in the mean over its document."""
    return (documents / documents.sum(-2, keepdim=True).clamp(min=1)).mT
