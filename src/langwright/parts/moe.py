"""Mixture of experts: every token is fed forward by a few of many (Shazeer et al., 2017)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from langwright.parts.attention import Context
from langwright.parts.linear import Linear


class MoE(nn.Module):
    """The `active` experts that a router finds likeliest for a token, mixed by their probabilities.

    experts: modules with the call of a feed-forward. renormalise: the chosen probabilities are made to sum to 1.
    balance: weight of `load_balance` as an auxiliary loss, put into the taps of kind "auxiliary".
    Taps of kind "router" hold the router's logits, [batch, time, experts]. No token is ever dropped.
    """

    def __init__(
        self, dim: int, experts: Sequence[nn.Module], active: int, renormalise: bool = True, balance: float = 0.0
    ):
        super().__init__()
        self.router = Linear(dim, len(experts))
        self.experts = nn.ModuleList(experts)
        self.active, self.renormalise, self.balance = active, renormalise, balance

    def forward(self, x: Float[Tensor, "batch time dim"], context: Context) -> Float[Tensor, "batch time dim"]:
        tokens, logits = x.flatten(0, 1), self.router(x)
        chances = logits.flatten(0, 1).float().softmax(-1)
        weights, chosen = chances.topk(self.active, -1)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        mixed = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, ranks = (chosen == number).nonzero(as_tuple=True)
            answers = expert(tokens[rows][None], context)[0] * weights[rows, ranks, None].to(x.dtype)
            mixed = mixed.index_add(0, rows, answers)
        if context.taps is not None and context.taps.wants("router"):
            context.taps.put("router", context.layer, logits)
        if context.taps is not None and context.taps.wants("auxiliary"):
            context.taps.put("auxiliary", context.layer, self.balance * load_balance(chances, chosen))
        return mixed.view(x.shape)


def load_balance(chances: Float[Tensor, "tokens experts"], chosen: Int[Tensor, "tokens active"]) -> Float[Tensor, ""]:
    """experts * Σ_e share_e * chance_e (Switch, Fedus et al., 2021): `active` when all experts have the same work.

    share: choices of an expert over tokens. chance: its mean probability, through which gradients flow.
    """
    experts = chances.shape[1]
    shares = torch.bincount(chosen.flatten(), minlength=experts).to(chances.dtype) / len(chosen)
    return experts * (shares * chances.mean(0)).sum()
