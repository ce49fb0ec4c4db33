"""Attention against the textbook, its paths against each other, and what it lets through."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langwright.parts.attention import Attention, Context
from langwright.parts.bias import Bias, Lowered, Places
from langwright.parts.kernels import attend_explicitly, attend_fused, choose_kernel
from langwright.parts.norms import Norm
from langwright.parts.state import Settings, Taps


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """One dot product at a time, in float64; a query that sees nothing is skipped."""
    out = torch.full(q.shape, math.nan, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for row, head, i in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        keys = [j for j in range(k.shape[2]) if allowed[row % len(allowed), 0, i, j]]
        if keys:
            scores = torch.stack([q[row, head, i].double() @ k[row, head // group, j].double() for j in keys]) * scale
            weights = scores.exp() / scores.exp().sum()
            out[row, head, i] = sum(w * v[row, head // group, j] for w, j in zip(weights, keys, strict=True))
    return out


@settings(max_examples=40)
@given(
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (3, 1)]),
    queries=st.integers(1, 5),
    earlier=st.integers(0, 3),
    rows=st.integers(1, 3),
    window=st.sampled_from([None, 2]),
    padded=st.booleans(),
    segmented=st.booleans(),
    scale=st.sampled_from([0.3, 1.0]),
)
def test_both_paths_equal_the_textbook(
    heads: tuple[int, int], queries: int, earlier: int, rows: int, window: int | None, padded: bool, segmented: bool,
    scale: float,
) -> None:  # fmt: skip
    keys = queries + earlier
    q = normal(rows, heads[0], queries, 4)
    k, v = (normal(rows, heads[1], keys, 4, seed=seed) for seed in (1, 2))
    key = torch.arange(keys).expand(rows, -1)
    if padded:
        key = (key - torch.arange(rows)[:, None]).clamp(min=-1)
    segments = key % 2 if segmented else None
    query = key[:, earlier:].clamp(min=0)
    places = Places(query, key, not padded, None if segments is None else segments[:, earlier:], segments)
    bias = Bias(causal=True, window=window).lower(places)
    seen = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    allowed = seen.tril() if bias.causal else seen if bias.allowed is None else bias.allowed
    expected = by_hand(q, k, v, allowed, scale)
    real = ~expected.isnan()
    fused = attend_fused(q, k, v, bias, scale)
    explicit, weights = attend_explicitly(q, k, v, bias, scale)
    for given_out in (fused, explicit):
        assert given_out.isfinite().all()
        assert torch.allclose(given_out.double()[real], expected[real], atol=1e-5)
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    blind = ~allowed.any(-1, keepdim=True)
    assert weights[(~allowed & ~blind).expand_as(weights)].eq(0).all()


def test_a_row_of_padding_alone_gives_finite_gradients() -> None:
    allowed = torch.tensor([[False, False], [True, True]])[:, None, None].expand(2, 1, 2, 2)
    for fused in (False, True):
        q, k, v = (normal(2, 1, 2, 4, seed=seed).requires_grad_() for seed in range(3))
        bias = Lowered(allowed=allowed)
        out = attend_fused(q, k, v, bias, 1.0) if fused else attend_explicitly(q, k, v, bias, 1.0)[0]
        out[1].sum().backward()
        assert all(x.grad is not None and x.grad.isfinite().all() and x.grad[0].eq(0).all() for x in (q, k, v))


def module(**changes: object) -> Attention:
    attention = Attention(**({"dim": 12, "heads": 6, "kv_heads": 2, "bias": "qkvo"} | changes)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for number, parameter in enumerate(attention.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number))
    return attention


@pytest.mark.parametrize("explicit", [False, True])
def test_scale_and_norm_of_heads(explicit: bool) -> None:
    x = normal(1, 4, 12)
    taps = Taps("attention") if explicit else None  # which the explicit product alone can fill
    context = Context(Lowered(), taps=taps)
    with torch.no_grad():
        default, given_scale = module(), module(scale=2**-0.5)
        assert torch.equal(default(x, context), given_scale(x, context))
        assert not torch.allclose(default(x, context), module(scale=1.0)(x, context))
        normed, doubled = (module(qk_norm=lambda dim: Norm(dim, "rms", 1e-6)) for _ in range(2))
        doubled.q.weight *= 7  # the norm takes the length of q and k away
        doubled.q.bias *= 7  # type: ignore[operator]
        assert torch.allclose(normed(x, context), doubled(x, context), atol=1e-5)


def test_weights_are_tapped_before_dropout() -> None:
    attention = module(dropout=0.5)
    taps, x = Taps("attention"), normal(1, 4, 12)
    context = Context(Bias(causal=True).lower(Places(torch.arange(4)[None], torch.arange(4)[None], False)))
    quiet = attention(x, context)
    assert torch.equal(quiet, module()(x, context))
    attention.train()
    torch.manual_seed(0)
    assert not torch.allclose(attention(x, context), quiet)
    context = context._replace(taps=taps, layer=3)
    torch.manual_seed(0)
    assert not torch.allclose(attention(x, context), quiet)
    (weights,) = taps.get("attention")
    assert weights.shape == (1, 6, 4, 4)
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)


def chosen(like: Tensor, queries: int, keys: int, triangle: bool = False, tiled: bool = False, **asked: Any) -> str:
    q = like[:, None, None].expand(-1, 2, queries, 1)
    return choose_kernel(q, keys, Lowered(triangle, tiled=tiled), Settings(1.0, **asked))


def test_the_kernel_that_is_chosen() -> None:
    """By device, dtype, length, cap, dropout and watched weights."""
    half = torch.zeros(1, 1, dtype=torch.bfloat16)
    assert [chosen(half, 8, keys) for keys in (511, 512)] == ["explicit", "fused"]
    lengths = (64, 65, 2048, 2049)
    assert [chosen(half, t, t, True) for t in lengths] == ["explicit", "blocks", "blocks", "fused"]
    assert chosen(half.expand(17, 1), 2048, 2048, True) == "fused"  # the weights of all rows and heads are too many
    assert chosen(half, 600, 600, True, dropout=0.1) == "fused"
    assert chosen(half, 100, 100, True, dropout=0.1) == "explicit"
    with torch.no_grad():  # where the fused kernel is faster, and closer to float32
        assert [chosen(half, 8, 8), chosen(half, 100, 100, True)] == ["fused"] * 2
    for other in (half.float(), half.to("meta")):
        assert [chosen(other, 8, 8), chosen(other, 100, 100, True)] == ["fused"] * 2
        assert chosen(other, 8, 8, softcap=1.0) == chosen(other, 8, 8, taps=Taps("attention")) == "explicit"
        assert chosen(other, 8, 8, tiled=True) == "tiles"
        assert chosen(other, 8, 8, tiled=True, taps=Taps("attention")) == "explicit"


@pytest.mark.parametrize("heads", [1, 6])
@pytest.mark.parametrize("softcap", [None, 0.5])
def test_heads_that_share_keys_read_them_as_if_each_had_its_own(heads: int, softcap: float | None) -> None:
    """A single query, as when text is written: also where scores differ from head to head."""
    q, k, v = normal(2, 6, 1, 3), normal(2, 2, 4, 3, seed=1), normal(2, 2, 4, 3, seed=2)
    bias = Lowered(scores=normal(1, heads, 1, 4, seed=3))
    alone = [x.repeat_interleave(3, 1) for x in (k, v)]
    mixed, weights = attend_explicitly(q, k, v, bias, 0.7, softcap=softcap)
    expected, expected_weights = attend_explicitly(q, *alone, bias, 0.7, softcap=softcap)
    assert torch.allclose(mixed, expected, atol=1e-6)
    assert torch.allclose(weights, expected_weights, atol=1e-6)
    assert torch.allclose(attend_fused(q, k, v, bias, 0.7), attend_fused(q, *alone, bias, 0.7), atol=1e-6)


@pytest.mark.parametrize("window", [None, 2])
def test_softcap_and_clip(window: int | None) -> None:
    """Scores are capped before who sees whom is added; q, k and v are cut before anything else."""
    attention, x = Attention(6, 2, softcap=0.5, clip=0.4), normal(2, 5, 6, seed=9)
    with torch.no_grad():
        for number, parameter in enumerate(attention.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number))
    bias = Bias(causal=True, window=window)
    places = Places(torch.arange(5)[None], torch.arange(5)[None], True)
    q, k, v = (f(x).clamp(-0.4, 0.4).view(2, 5, 2, 3).transpose(1, 2) for f in (attention.q, attention.k, attention.v))
    scores = 0.5 * torch.tanh(q @ k.mT * 3**-0.5 / 0.5)
    distance = torch.arange(5)[:, None] - torch.arange(5)
    hidden = (distance < 0) | (distance >= (window or 9))
    mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    expected = attention.output(mixed.transpose(1, 2).reshape(2, 5, 6))
    assert torch.allclose(attention(x, Context(bias.lower(places))), expected, atol=1e-5)
