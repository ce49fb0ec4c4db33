"""The mixture of experts against every expert run on every token; its taps and its balance."""

import pytest
import torch
from torch import Tensor

from langwright.parts.attention import Context
from langwright.parts.bias import Lowered
from langwright.parts.feedforward import GLU
from langwright.parts.moe import MoE, load_balance
from langwright.parts.state import Taps

CONTEXT = Context(Lowered(), False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(active: int, renormalise: bool = True, balance: float = 0.0) -> MoE:
    moe = MoE(6, [GLU(6, 5, "silu") for _ in range(4)], active, renormalise, balance)
    with torch.no_grad():
        for number, parameter in enumerate(moe.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number))
    return moe


@pytest.mark.parametrize("active", [1, 2, 4])
@pytest.mark.parametrize("renormalise", [True, False])
def test_it_is_the_mixture_of_all_with_most_weights_zero(active: int, renormalise: bool) -> None:
    moe, x = made(active, renormalise), normal(2, 5, 6, seed=50)
    chances = (x @ moe.router.weight.T).softmax(-1)
    least = chances.sort(-1, descending=True).values[..., active - 1, None]
    weights = chances * (chances >= least)
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    every = torch.stack([expert(x, CONTEXT) for expert in moe.experts], -1)
    assert torch.allclose(moe(x, CONTEXT), (every * weights[..., None, :]).sum(-1), atol=1e-5)


def test_an_expert_that_nobody_chose_has_a_gradient_of_zero() -> None:
    moe, x = made(1), torch.ones(1, 3, 6)
    moe(x, CONTEXT).sum().backward()
    given = [expert.gate.weight.grad for expert in moe.experts]
    assert sum(bool(g.abs().sum() > 0) for g in given if g is not None) == 1
    assert all(g is not None for g in given)


def test_taps() -> None:
    moe, x, taps = made(2, balance=0.5), normal(2, 5, 6), Taps("router", "auxiliary")
    moe(x, Context(Lowered(), False, taps=taps, layer=3))
    (logits,), (loss,) = taps.get("router"), taps.get("auxiliary")
    assert torch.allclose(logits, x @ moe.router.weight.T, atol=1e-6)
    chances = logits.flatten(0, 1).softmax(-1)
    assert torch.allclose(loss, 0.5 * load_balance(chances, chances.topk(2, -1).indices))


def test_balance() -> None:
    chosen = torch.tensor([[0, 1], [2, 3]])
    assert float(load_balance(torch.full((2, 4), 0.25), chosen)) == pytest.approx(2)  # all have the same work
    one = torch.tensor([[1.0, 0, 0, 0]] * 3)
    assert float(load_balance(one, torch.tensor([[0]] * 3))) == pytest.approx(4)  # one has it all
    uneven = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    assert float(load_balance(uneven, torch.tensor([[0], [0]]))) == pytest.approx(2 * (1 * 0.5))
