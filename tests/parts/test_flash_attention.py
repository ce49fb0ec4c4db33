"""Tiled attention against PyTorch's and against the explicit product, in value, gradient and memory."""

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from langwright.parts.bias import Alibi, Bias, Places
from langwright.parts.flash_attention import attend_tiled
from langwright.parts.kernels import attend_explicitly


def tensors(heads: int, kv_heads: int, queries: int, keys: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v and an upstream gradient, two rows each."""
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = (heads, queries), (kv_heads, keys), (kv_heads, keys), (heads, queries)
    return [torch.randn(2, *shape, 4, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def stand(queries: int, keys: int, pads: int = 0, segmented: bool = False) -> Places:
    """Queries at the end of the keys; the second row begins with `pads` keys of padding."""
    key = torch.stack([torch.arange(keys), (torch.arange(keys) - pads).clamp(min=-1)])
    query = key[:, keys - queries :].clamp(min=0) if keys >= queries else torch.arange(queries).expand(2, -1)
    segments = (key // 3, key // 3) if segmented else None
    if segments is None or keys < queries:
        return Places(query, key, False)
    return Places(query, key, False, segments[0][:, keys - queries :], segments[1])


def gradients(mixed: Tensor, upstream: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [mixed.detach(), *torch.autograd.grad(mixed, inputs, upstream)]


@settings(max_examples=60)
@given(
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (3, 1)]),
    queries=st.integers(1, 11),
    keys=st.integers(1, 11),
    pads=st.integers(0, 12),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 4]),
    segmented=st.booleans(),
    tile=st.sampled_from([1, 3, 4, 32]),
)
def test_equal_to_sdpa_in_value_and_gradient(
    heads: tuple[int, int], queries: int, keys: int, pads: int, causal: bool, window: int | None, segmented: bool,
    tile: int,
) -> None:  # fmt: skip
    """Rows that see nothing, whole tiles that see nothing, ragged last tiles; SDPA gives 0 for blind rows as well."""
    *inputs, upstream = tensors(*heads, queries, keys)
    inputs = [x.requires_grad_() for x in inputs]
    bias, places = Bias(causal=causal, window=window), stand(queries, keys, pads, segmented)
    allowed = bias.lower(places).allowed
    assert allowed is not None
    ours = gradients(attend_tiled(*inputs, bias, places, 0.7, tile), upstream, inputs)
    q, k, v = inputs
    fused = F.scaled_dot_product_attention(q, k, v, allowed, scale=0.7, enable_gqa=True)
    sighted = allowed.any(-1, keepdim=True)
    fused = torch.where(sighted, fused, 0.0)
    for mine, other in zip(ours, gradients(fused, upstream, inputs), strict=True):
        assert mine.isfinite().all()
        assert torch.allclose(mine, other, atol=1e-12)


@pytest.mark.parametrize("tile", [5, 128])
def test_equal_to_the_explicit_path_with_alibi(tile: int) -> None:
    *inputs, upstream = tensors(6, 2, 13, 13)
    inputs = [x.requires_grad_() for x in inputs]
    bias, places = Bias(causal=True, term=Alibi(6)), stand(13, 13)
    ours = gradients(attend_tiled(*inputs, bias, places, 0.5, tile), upstream, inputs)
    explicit, _ = attend_explicitly(*inputs, bias.lower(places, torch.float64), 0.5)
    for mine, other in zip(ours, gradients(explicit, upstream, inputs), strict=True):
        assert torch.allclose(mine, other, atol=1e-12)


def test_blind_rows_are_zero_and_pull_at_nothing() -> None:
    *inputs, upstream = tensors(2, 2, 4, 4)
    inputs = [x.requires_grad_() for x in inputs]
    blind = Places(torch.arange(4)[None], torch.tensor([[0, 1, 2, 3], [-1, -1, -1, -1]]), False)
    mixed, *pulls = gradients(attend_tiled(*inputs, Bias(causal=True), blind, 1.0, 2), upstream, inputs)
    assert mixed[1].eq(0).all()
    assert all(pull[1].eq(0).all() and pull[0].ne(0).any() for pull in pulls)


def test_large_scores_do_not_overflow() -> None:
    *inputs, _ = tensors(1, 1, 6, 6, torch.float32)
    loud = [inputs[0] * 1e4, *inputs[1:]]
    mixed = attend_tiled(*loud, Bias(), stand(6, 6), 1.0, 2)
    assert torch.allclose(mixed, F.scaled_dot_product_attention(*loud, scale=1.0), atol=1e-5)


def test_sums_are_kept_in_float32() -> None:
    """In bfloat16 the result is as near as rounding the exact one would be."""
    *inputs, _ = tensors(2, 1, 200, 200, torch.bfloat16)
    exact = attend_tiled(*(x.double() for x in inputs), Bias(causal=True), stand(200, 200), 0.5)
    narrow = attend_tiled(*inputs, Bias(causal=True), stand(200, 200), 0.5, 16)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, exact.bfloat16()) or (narrow.double() - exact).abs().max() < 2**-8 * exact.abs().max()


def test_a_learned_term_is_refused() -> None:
    class Learned(torch.nn.Module):
        def forward(self, places: Places, dtype: torch.dtype) -> Tensor:
            return torch.zeros(1, 1, 2, 2, dtype=dtype)

    *inputs, _ = tensors(1, 1, 2, 2)
    with pytest.raises(ValueError, match="learned term"):
        attend_tiled(*inputs, Bias(term=Learned()), stand(2, 2), 1.0)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (key := leaf.untyped_storage()._cdata) not in self._known:
                size = leaf.untyped_storage().nbytes()
                self._known.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(leaf.untyped_storage(), self._leave, key, size)
        return out

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak(time: int, tiled: bool) -> int:
    *inputs, upstream = tensors(2, 1, time, time, torch.float32)
    inputs = [x.requires_grad_() for x in inputs]
    bias, places = Bias(causal=True), stand(time, time)
    with Peak() as seen:
        if tiled:
            attend_tiled(*inputs, bias, places, 1.0, 16).backward(upstream)
        else:
            attend_explicitly(*inputs, bias.lower(places), 1.0)[0].backward(upstream)
    return seen.most


def test_memory_grows_with_the_time_and_not_its_square() -> None:
    assert peak(512, tiled=True) < 2.1 * peak(256, tiled=True)
    assert peak(512, tiled=False) > 3.5 * peak(256, tiled=False)
