"""The mixture of experts against every expert run on every token; its taps and its balance."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func as their_balance
from transformers.models.switch_transformers import modeling_switch_transformers as their_switch

from langwright.parts.attention import Context
from langwright.parts.bias import Lowered
from langwright.parts.feedforward import GLU
from langwright.parts.moe import MoE, has_room, load_balance, router_z_loss
from langwright.parts.state import Taps

CONTEXT = Context(Lowered())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(active: int, renormalise: bool = True, **more: Any) -> MoE:
    moe = MoE(6, [GLU(6, 5, "silu") for _ in range(4)], active, renormalise, **more)
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


def test_no_tokens_give_none() -> None:
    x = torch.zeros(2, 0, 6, requires_grad=True)
    made(2)(x, CONTEXT).sum().backward()
    assert made(2)(x, CONTEXT).shape == (2, 0, 6)


def test_without_gradients_only_the_chosen_are_asked() -> None:
    moe, asked = made(1), []
    for number, expert in enumerate(moe.experts):
        expert.register_forward_hook(lambda *_, number=number: asked.append(number))
    with torch.no_grad():
        moe(torch.ones(1, 3, 6), CONTEXT)
    assert len(asked) == 1


ONE = torch.ones(9, 1)


# Capacity


def by_hand(chosen: Tensor, capacity: int, real: Tensor) -> Tensor:
    """One choice after the other: all first choices in the order of tokens, then all second ones."""
    room = torch.zeros_like(chosen, dtype=torch.bool)
    for row in range(len(chosen)):
        taken: dict[int, int] = {}
        for rank in range(chosen.shape[2]):
            for time in range(chosen.shape[1]):
                expert = int(chosen[row, time, rank])
                if real[row, time]:
                    taken[expert] = taken.get(expert, 0) + 1
                room[row, time, rank] = taken.get(expert, 0) <= capacity
    return room


@given(st.integers(1, 2), st.integers(1, 4), st.integers(0, 99), st.booleans())
def test_who_finds_room(active: int, capacity: int, seed: int, padded: bool) -> None:
    chosen = normal(2, 9, 3, seed=seed).argsort(-1)[..., :active]
    real = normal(2, 9, seed=seed + 100) > (0 if padded else -torch.inf)
    assert torch.equal(has_room(chosen, 3, capacity, real if padded else None), by_hand(chosen, capacity, real))


def test_tokens_over_capacity_are_given_nothing() -> None:
    x, tight, roomy = normal(2, 12, 6, seed=50), made(1, False, capacity=2), made(1, False)
    chosen = (x @ tight.router.weight.T).argmax(-1, keepdim=True)
    room = has_room(chosen, 4, 2)
    assert 0 < room.sum() < room.numel()
    expected = roomy(x, CONTEXT) * room
    torch.testing.assert_close(tight(x, CONTEXT), expected)
    for row in range(2):  # a row is filled by itself
        torch.testing.assert_close(tight(x[row : row + 1], CONTEXT), expected[row : row + 1])
    assert not torch.equal(expected[:, -1], roomy(x, CONTEXT)[:, -1])


def test_padding_takes_no_room() -> None:
    moe, x, real = made(1, False, capacity=2), normal(1, 12, 6, seed=50), torch.arange(12)[None] >= 5
    found = moe(x, Context(Lowered(), real=real))
    torch.testing.assert_close(found[:, 5:], moe(x[:, 5:], CONTEXT))
    assert not torch.allclose(found[:, 5:], moe(x, CONTEXT)[:, 5:])


# The router


def test_the_router_is_float32_in_a_bfloat16_model() -> None:
    moe, x, taps = made(1).bfloat16(), normal(2, 5, 6).bfloat16(), Taps("router")
    assert moe(x, Context(Lowered(), taps=taps)).dtype == torch.bfloat16
    (logits,) = taps.get("router")
    assert logits.dtype == torch.float32
    assert torch.equal(logits, x.float() @ moe.router.weight.float().T)


def test_noise_is_for_the_router_in_training_alone() -> None:
    moe, x = made(2, jitter=0.5), normal(2, 500, 6)

    def logits() -> Tensor:
        taps = Taps("router")
        moe(x, Context(Lowered(), taps=taps))
        return taps.get("router")[0]

    quiet = moe.eval()(x, CONTEXT), logits()
    assert torch.allclose(quiet[1], x @ moe.router.weight.T, atol=1e-6)
    moe.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noisy = logits()
        torch.manual_seed(0)
        factors = torch.empty_like(x).uniform_(0.5, 1.5)
    assert torch.allclose(noisy, (x * factors) @ moe.router.weight.T, atol=1e-6)
    with torch.no_grad():
        moe.router.weight.zero_()  # all are chosen alike whatever is read: the experts read x itself
        assert torch.equal(moe(x, CONTEXT), moe.eval()(x, CONTEXT))


@pytest.mark.parametrize("active", [1, 2])
def test_the_balance_is_that_of_mixtral(active: int) -> None:
    logits, real = normal(3, 7, 4), normal(3, 7, seed=1) > 0
    chances = logits.flatten(0, 1).softmax(-1)
    chosen = chances.topk(active, -1).indices
    for mask in (None, real):
        expected = their_balance((logits.flatten(0, 1),), 4, active, None if mask is None else mask.long())
        found = load_balance(chances, chosen, torch.ones(21, 1) if mask is None else mask.flatten()[:, None].float())
        assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_balance_and_z_loss_are_those_of_switch() -> None:
    moe, x, taps = made(1, False, capacity=3, balance=0.5, z_loss=0.25), normal(3, 7, 6), Taps("router", "auxiliary")
    moe(x, Context(Lowered(), taps=taps))
    (logits,), (loss,) = taps.get("router"), taps.get("auxiliary")
    balance = their_switch.load_balancing_loss_func(logits.softmax(-1), logits.argmax(-1))
    z_loss = their_switch.router_z_loss_func(logits)
    assert router_z_loss(logits, torch.ones(3, 7, 1)).mean().item() == pytest.approx(z_loss.item(), rel=1e-6)
    assert loss.mean().item() == pytest.approx((0.5 * balance + 0.25 * z_loss).item(), rel=1e-6)


def test_padding_has_no_part_in_the_losses() -> None:
    real = torch.arange(7)[None] >= torch.tensor([[3], [3]])
    for capacity in (None, 2):
        moe, x = made(1, False, capacity=capacity, balance=0.5, z_loss=0.25), normal(2, 7, 6)
        losses = []
        for part, mask in ((x, real), (x[:, 3:], None)):
            taps = Taps("auxiliary")
            moe(part, Context(Lowered(), taps=taps, real=mask))
            losses += taps.get("auxiliary")
        torch.testing.assert_close(losses[0][:, 3:], losses[1])
