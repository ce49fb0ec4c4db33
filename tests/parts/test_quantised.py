"""Quantised linear layers: they equal their dense form, forward and backward, wherever and however they are packed."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langwright.parts import quantised
from langwright.parts.linear import Linear
from langwright.parts.quantised import FourBitBlocks, Int8Rows, IntGroups, Packed, QuantisedLinear

QUANTISE: dict[str, Callable[[Tensor], Packed]] = {
    "int8": Int8Rows.quantise,
    "int4": IntGroups.quantise,
    "nf4": lambda weight: FourBitBlocks.quantise(weight, "nf4"),
    "fp4": lambda weight: FourBitBlocks.quantise(weight, "fp4", double=False),
}
every_kind = pytest.mark.parametrize("kind", QUANTISE)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 8, 9, 40])
def test_the_product_is_that_of_the_dense_weight(kind: str, dtype: torch.dtype, rows: int) -> None:
    packed = QUANTISE[kind](numbers(128, 2048))
    x = numbers(rows, 2048, seed=1).to(dtype)
    wanted = x.double() @ packed.full_weight(torch.float64).t()
    assert error(packed.product(x), wanted) < (1e-6 if dtype == torch.float32 else 6e-3)


@every_kind
def test_the_dense_weight_is_near_the_one_before(kind: str) -> None:
    weight = numbers(64, 128)
    largest = {"int8": 0.01, "int4": 0.12, "nf4": 0.11, "fp4": 0.14}[kind]
    assert largest / 3 < error(QUANTISE[kind](weight).full_weight(), weight) < largest


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_reaches_the_input_alone(kind: str, dtype: torch.dtype) -> None:
    bias = nn.Parameter(numbers(64, seed=2))
    linear = QuantisedLinear(QUANTISE[kind](numbers(64, 128)), bias)
    x = numbers(2, 5, 128, seed=1).to(dtype).requires_grad_()
    y = linear(x)
    upstream = numbers(2, 5, 64, seed=3).to(dtype)
    y.backward(upstream)
    dense = F.linear(x.detach(), linear.packed.full_weight(dtype), bias.detach().to(dtype))
    assert y.dtype == dtype
    assert error(y.detach(), dense) < (1e-6 if dtype == torch.float32 else 6e-3)
    assert torch.equal(x.grad, upstream @ linear.packed.full_weight(dtype))  # type: ignore[arg-type]
    assert bias.grad is not None
    assert [name for name, _ in linear.named_parameters()] == ["bias"]


def test_nothing_dense_is_kept_for_the_way_back() -> None:
    linear = QuantisedLinear(FourBitBlocks.quantise(numbers(64, 128)))
    kept: list[Tensor] = []
    x = numbers(4, 128).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        linear(x).sum().backward()
    assert sum(tensor.numel() for tensor in kept) == 0


@every_kind
@pytest.mark.parametrize("rows", [slice(64, 192), slice(192, 256), torch.arange(256).view(4, 64)[[3, 1]].flatten()])
def test_a_part_has_the_rows_of_the_whole(kind: str, rows: slice | Tensor) -> None:
    packed = QUANTISE[kind](numbers(256, 192))
    part = packed.part(rows)
    assert torch.equal(part.full_weight(), packed.full_weight()[rows])
    x = numbers(1, 192)
    assert error(part.product(x), x @ packed.full_weight()[rows].t()) < 1e-6
    if isinstance(rows, slice):
        again = part.part(slice(64, 128)) if part.shape[0] == 128 else part
        assert torch.equal(again.full_weight(), part.full_weight()[-64:])


def test_a_part_that_owns_no_whole_blocks_is_refused() -> None:
    packed = FourBitBlocks.quantise(numbers(9, 24))
    with pytest.raises(ValueError, match="3 rows of 24 numbers do not own blocks of 64"):
        packed.part(slice(3, 6))
    with pytest.raises(ValueError, match="rows of 24 numbers, which take turns"):
        packed.part(torch.tensor([0, 3]))


@every_kind
def test_a_cast_leaves_the_stored_numbers_alone(kind: str) -> None:
    packed = QUANTISE[kind](numbers(64, 128))
    before = packed.full_weight()
    linear = QuantisedLinear(packed, nn.Parameter(torch.zeros(64))).to(torch.bfloat16)
    assert linear.bias is not None
    assert linear.bias.dtype == torch.bfloat16
    assert torch.equal(linear.full_weight(), before)


@every_kind
@pytest.mark.parametrize("layout", ["tiles", "pytorch"])
def test_another_layout_is_taken_up_and_left_again(kind: str, layout: quantised.Layout) -> None:
    packed = QUANTISE[kind](numbers(128, 64))
    before, codes = packed.full_weight(), packed.codes
    packed.lay_out(layout)
    known = kind == "int4" and quantised._kernel_rows() > 0
    assert packed.layout == (layout if layout == "tiles" or known else "plain")
    assert torch.equal(packed.full_weight(), before)
    assert torch.equal(packed.part(slice(64, 128)).full_weight(), before[64:])
    packed.lay_out(layout)
    assert torch.equal(packed.float().codes, codes)


def test_odd_sizes() -> None:
    weight = numbers(9, 7)
    packed = FourBitBlocks.quantise(weight)
    assert error(packed.full_weight(), weight) < 0.13
    x = numbers(3, 7)
    torch.testing.assert_close(packed.product(x), x @ packed.full_weight().t())
    empty = QuantisedLinear(Int8Rows.quantise(numbers(8, 16)))(torch.empty(1, 0, 16))
    assert empty.shape == (1, 0, 8)


def test_memory() -> None:
    weight = numbers(1024, 1024)
    bits = {kind: 8 * make(weight).bytes / weight.numel() for kind, make in QUANTISE.items()}
    assert bits == pytest.approx({"int8": 8.03, "int4": 4.5, "nf4": 4.127, "fp4": 4.5}, abs=2e-3)


def test_it_stands_where_a_linear_stands() -> None:
    linear = QuantisedLinear(Int8Rows.quantise(numbers(8, 16)))
    assert isinstance(linear, Linear)
    assert (linear.inputs, linear.outputs) == (16, 8)
    linear.adapter = _Doubled()
    x = numbers(2, 16)
    assert torch.equal(linear(x), 2 * linear.plain(x))


class _Doubled(nn.Module):
    def forward(self, x: Tensor, linear: Linear) -> Tensor:
        return 2 * linear.plain(x)
