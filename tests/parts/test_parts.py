"""Norms, rotary positions, feed-forwards, linears, heads, residuals and taps, each against its formula."""

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from langwright.parts.attention import Context
from langwright.parts.bias import Lowered
from langwright.parts.feedforward import ACTIVATIONS
from langwright.parts.heads import LanguageHead
from langwright.parts.linear import FEW, Linear, affine
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope, rotate, sinusoids
from langwright.parts.stack import Embedding, Residual
from langwright.parts.state import Taps

CONTEXT = Context(Lowered())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=100 + number))
    return module


# Linear maps


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (0, 2, 24), (1, 1, 24), (3, 1, 24), (2, FEW // 2, 24), (1, FEW + 1, 24)])
def test_a_few_rows_in_bfloat16_are_rounded_once(shape: tuple[int, ...], bias: bool) -> None:
    x, weight = normal(*shape).bfloat16(), normal(40, 24, seed=1).bfloat16()
    b = 9 * normal(40, seed=2).bfloat16() if bias else None
    exact = F.linear(x.double(), weight.double(), None if b is None else b.double())
    with torch.no_grad():
        found = affine(x, weight, b)
    assert found.shape == exact.shape
    assert torch.allclose(found.double(), exact, rtol=2**-8, atol=1e-5)  # half of the last place, with the sum's order
    assert torch.equal(affine(x.float(), weight.float()), F.linear(x.float(), weight.float()))


# Norms


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("weight", [True, False])
def test_norms(kind: Literal["layer", "rms"], weight: bool) -> None:
    norm, x = filled(Norm(10, kind, 0.1, weight)), normal(3, 4, 10) * 5 + 2
    theirs = F.layer_norm if kind == "layer" else F.rms_norm
    assert torch.allclose(norm(x), theirs(x, (10,), norm.weight if weight else None, eps=0.1), atol=1e-5)


def test_one_is_added_to_the_weight_before_rounding() -> None:
    plain, norm, x = Norm(10, "rms", 0.1), Norm(10, "rms", 0.1, plus_one=True), normal(3, 10)
    norm.weight.data = normal(10, seed=1) * 0.01
    plain.weight.data = norm.weight.data + 1
    assert torch.allclose(norm(x), plain(x), atol=1e-6)
    half = x.bfloat16()
    assert torch.equal(norm(half), norm(half.float()).bfloat16())


@pytest.mark.parametrize("weight", [True, False])
def test_rms_norm_has_the_gradient_of_its_formula(weight: bool) -> None:
    norm = filled(Norm(10, "rms", 0.1, weight)).double()
    x = normal(3, 10).double().requires_grad_()
    assert torch.allclose(norm(x), norm(x.detach()))
    assert torch.autograd.gradcheck(lambda *inputs: norm(inputs[0]), (x, *norm.parameters()))


def test_rms_norm_of_bfloat16_has_a_gradient_as_good_as_its_dtype() -> None:
    norm, x, upstream = filled(Norm(64, "rms", 1e-6)), normal(9, 64).bfloat16(), normal(9, 64, seed=1).bfloat16()
    half, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    norm(half).backward(upstream)
    F.rms_norm(wide, (64,), norm.weight.detach(), 1e-6).backward(upstream.float())
    assert half.grad is not None
    assert wide.grad is not None
    assert half.grad.dtype == torch.bfloat16
    assert (half.grad.float() - wide.grad).norm() <= 0.01 * wide.grad.norm()


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_of_bfloat16_are_computed_wide(kind: str) -> None:
    norm, x = filled(Norm(512, kind, 1e-6)), normal(4, 512) * 30  # type: ignore[arg-type]
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - norm(x.bfloat16().float())).abs().max() <= 0.02 * norm(x).abs().max()


# Rotary positions


def turned(rope: Rope, x: Tensor, positions: Tensor) -> Tensor:
    return rotate(x, rope.tables(positions, x.dtype))


@given(st.integers(1, 4), st.integers(0, 40), st.integers(0, 40), st.integers(0, 900), st.floats(2.0, 1e5))
def test_scores_depend_on_distance_only(pairs: int, i: int, j: int, shift: int, theta: float) -> None:
    rope, q, k = Rope(2 * pairs, theta), normal(1, 1, 1, 2 * pairs), normal(1, 1, 1, 2 * pairs, seed=1)
    score = lambda a, b: float((turned(rope, q, torch.tensor([[a]])) * turned(rope, k, torch.tensor([[b]]))).sum())  # noqa: E731
    assert score(i, j) == pytest.approx(score(i + shift, j + shift), abs=2e-3)


@pytest.mark.parametrize("halves", [True, False])
def test_sinusoids(halves: bool) -> None:
    """Pairs of clock hands, with wavelengths from 2 pi to nearly 20000 pi; or all sines, then all cosines."""
    found = sinusoids(torch.tensor([[0, 3, 500]]), 8, halves)[0].unflatten(-1, (2, 4) if halves else (4, 2))
    sines, cosines = found.unbind(1) if halves else found.unbind(2)
    angles = torch.tensor([0.0, 3, 500])[:, None] / 10_000 ** (torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close((sines, cosines), (angles.sin(), angles.cos()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("interleaved", [True, False])
def test_pairs_and_the_part_that_is_rotated(interleaved: bool) -> None:
    x, places = normal(1, 2, 3, 10), torch.tensor([[0, 1, 5]])
    turned = rotate(x, Rope(6, theta=10.0, interleaved=interleaved).tables(places, x.dtype))
    assert torch.equal(turned[..., 6:], x[..., 6:])
    for pair in range(3):
        a, b = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + 3)
        angle = places[0] * 10.0 ** (-2 * pair / 6)
        assert torch.allclose(turned[0, :, :, a], x[0, ..., a] * angle.cos() - x[0, ..., b] * angle.sin(), atol=1e-5)
        assert torch.allclose(turned[0, :, :, b], x[0, ..., b] * angle.cos() + x[0, ..., a] * angle.sin(), atol=1e-5)


def test_tables_keep_large_positions_apart_in_bfloat16() -> None:
    rope = Rope(8)
    wide, half = (rope.tables(torch.tensor([[4097]]), dtype) for dtype in (torch.float32, torch.bfloat16))
    assert half[0].dtype == torch.bfloat16
    assert all((a - b.float()).abs().max() < 0.01 for a, b in zip(wide[:2], half[:2], strict=True))


# Feed-forwards, linears, embeddings, heads


@pytest.mark.parametrize("compiling", [False, True])
def test_activations(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some have a form of their own for the compiler, which must be the same function."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x = torch.linspace(-4, 4, 33)
    tanh = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    exact = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    for name, expected in {
        "gelu_tanh": tanh,
        "gelu": exact,
        "relu": x.clamp(min=0),
        "relu2": x.clamp(min=0) ** 2,
        "silu": x * x.sigmoid(),
    }.items():
        assert torch.allclose(ACTIVATIONS[name](x), expected, atol=1e-6), name


@pytest.mark.parametrize("compiling", [False, True])
def test_gradients_of_activations(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against differences of the function itself; twice over the same graph, as nothing may be changed in place."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    for name, activation in ACTIVATIONS.items():
        if name not in ("relu", "relu2"):
            assert torch.autograd.gradcheck(activation, x), name
    y = ACTIVATIONS["relu2"](x)
    for _ in range(2):
        (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert torch.equal(slope, 2 * x.detach().clamp(min=0))


def test_weights_are_cast_to_the_input() -> None:
    x = normal(2, 6).bfloat16()
    linear, head = filled(Linear(6, 4, bias=True)), filled(LanguageHead(9, 6))
    assert linear(x).dtype == head(x).dtype == torch.bfloat16
    assert linear.weight.dtype == torch.float32
    assert torch.allclose(linear(x).float(), linear(x.float()), atol=0.1)


def test_embedding_and_tied_head() -> None:
    embed = filled(Embedding(9, 6, positions=5))
    ids, positions = torch.tensor([[3, 8], [0, 3]]), torch.tensor([[4, 0], [1, 1]])
    assert torch.equal(embed(ids, positions), embed.tokens[ids] + embed.positions[positions])
    assert torch.equal(embed(ids, positions[:1]), embed.tokens[ids] + embed.positions[positions[:1]])
    head, hidden = LanguageHead(9, 6, tied=embed.tokens), normal(2, 6)
    assert head.weight is embed.tokens
    assert torch.allclose(head(hidden), hidden @ embed.tokens.T)


def test_dropout_is_for_training_and_keeps_the_mean() -> None:
    embed = Embedding(4, 4096, dropout=0.25)
    residual = Residual(lambda x, context: torch.ones_like(x), dropout=0.25)
    with torch.no_grad():
        embed.tokens.fill_(1.0)
    ids, positions = torch.tensor([[1]]), torch.tensor([[0]])
    zeros = torch.zeros(1, 1, 4096)
    torch.manual_seed(0)
    for dropped in (embed(ids, positions), residual(zeros, CONTEXT)):
        assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
        assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(embed.eval()(ids, positions), residual.eval()(zeros, CONTEXT) * torch.ones(()))


# Residuals


class Tanh(nn.Module):
    """Flamingo's gate, open a little."""

    def forward(self, x: Tensor) -> Tensor:
        return x * math.tanh(0.4)


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_one_equation_for_every_residual(pre: bool, sandwich: bool, post: bool, gated: bool) -> None:
    x, norms = normal(2, 3, 6), [filled(Norm(6, "layer", 1e-5, bias=True)) for _ in range(3)]
    for number, norm in enumerate(norms):
        norm.weight.data *= number + 1
    in_norm, res_norm, out_norm = (norm if on else None for norm, on in zip(norms, (pre, sandwich, post), strict=True))
    branch = lambda x, context: x.roll(1, -1).square()  # noqa: E731
    residual = Residual(branch, in_norm, res_norm, out_norm, Tanh() if gated else None)
    y = branch(norms[0](x) if pre else x, CONTEXT)
    y = norms[1](y) if sandwich else y
    y = x + (math.tanh(0.4) if gated else 1) * y
    assert torch.allclose(residual(x, CONTEXT), norms[2](y) if post else y, atol=1e-5)


# Taps


def test_taps_are_kept_by_slot() -> None:
    taps = Taps("hidden", "router")
    assert taps.wants("hidden")
    assert not taps.wants("attention")
    for slot, value in ((1, 10.0), (0, 5.0), (1, 11.0)):  # the second visit to slot 1 is a recomputation
        taps.put("hidden", slot, torch.tensor(value))
    assert [float(x) for x in taps.get("hidden")] == [5.0, 11.0]
    assert taps.get("router") == []
