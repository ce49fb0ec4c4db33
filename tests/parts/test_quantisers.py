"""Quantising, against bitsandbytes and the published errors."""

import pytest
import torch
from torch import Tensor

from langwright.parts import quantisers
from langwright.parts.quantisers import Levels

SHAPES = [(40, 64), (24, 48), (7, 10), (256, 256)]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def theirs() -> object:
    return pytest.importorskip("bitsandbytes").functional


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_levels_are_those_of_bitsandbytes(kind: Levels, theirs: object) -> None:
    assert torch.equal(quantisers.levels(kind), theirs.get_4bit_type(kind, device="cpu"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("signed", [True, False])
def test_the_dynamic_map_is_that_of_bitsandbytes(signed: bool, theirs: object) -> None:
    assert torch.equal(quantisers.dynamic_map(signed), theirs.create_dynamic_map(signed))  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_equal_bitsandbytes(kind: Levels, dtype: torch.dtype, shape: tuple[int, int], theirs: object) -> None:
    weight = numbers(*shape).to(dtype)
    codes, absmax = quantisers.quantise_levels(weight, kind)
    wanted, state = theirs.quantize_4bit(weight, quant_type=kind, blocksize=64)  # type: ignore[attr-defined]
    assert torch.equal(codes, wanted.view(-1))
    assert torch.equal(absmax, state.absmax)
    dense = quantisers.dequantise_levels(codes, absmax, kind)[: weight.numel()].view(shape).to(dtype)
    state.shape = (1, weight.numel())  # their compiled code takes rows for whole blocks, which those of 48 are not
    assert torch.equal(dense, theirs.dequantize_4bit(wanted, state).view(shape))  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 255, 256, 1000, 40_000])
@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_equal_bitsandbytes(signed: bool, count: int, theirs: object) -> None:
    """In float64 it looks for the nearest value; its compiled code for float32 does not always find it."""
    x = numbers(count) if signed else numbers(count).square()
    codes, absmax = quantisers.quantise_blocks(x, signed)
    code = theirs.create_dynamic_map(signed)  # type: ignore[attr-defined]
    wanted, largest = torch.ops.bitsandbytes.quantize_blockwise.default(x.double(), code, 256)
    assert torch.equal(codes, wanted)
    assert torch.equal(absmax, largest)
    dense = torch.ops.bitsandbytes.dequantize_blockwise.default(wanted, largest, code, 256, torch.float32)
    assert torch.equal(quantisers.dequantise_blocks(codes, absmax, signed), dense)


def test_nested_scales_equal_bitsandbytes(theirs: object) -> None:
    _, absmax = quantisers.quantise_levels(numbers(300, 128))
    nested = quantisers.nest(absmax)
    code = theirs.create_dynamic_map()  # type: ignore[attr-defined]
    centred = (absmax - absmax.mean()).double()
    wanted, outer = torch.ops.bitsandbytes.quantize_blockwise.default(centred, code, 256)
    assert torch.equal(nested.offset, absmax.mean())
    assert torch.equal(nested.codes, wanted)
    assert torch.equal(nested.absmax, outer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_of_int8_equal_bitsandbytes(dtype: torch.dtype, theirs: object) -> None:
    weight = numbers(30, 48).to(dtype)
    codes, absmax = quantisers.quantise_rows(weight)
    wanted, stats, _ = theirs.int8_vectorwise_quant(weight)  # type: ignore[attr-defined]
    assert torch.equal(codes, wanted)
    assert torch.equal(absmax, stats)
    dense = theirs.int8_vectorwise_dequant(wanted, stats)  # type: ignore[attr-defined]
    assert torch.equal(quantisers.dequantise_rows(codes, absmax), dense)


@pytest.mark.parametrize("kind", ["rows", "groups", "levels", "blocks"])
def test_what_is_all_zero_stays_so(kind: str) -> None:
    quantise, back = (getattr(quantisers, f"{way}_{kind}") for way in ("quantise", "dequantise"))
    assert torch.equal(back(*quantise(torch.zeros(4, 64))).view(4, 64), torch.zeros(4, 64))


@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_by_hand(symmetric: bool) -> None:
    weight = torch.tensor([[-1.0, 0.0, 2.0, 6.5]])
    codes, scale, zero = quantisers.quantise_groups(weight, 4, symmetric, torch.float32)
    if symmetric:  # steps of -6.5 / 8
        assert codes.tolist() == [[9, 8, 6, 0]]
        assert not zero.any()
    else:  # 15 steps of 0.5 from -1 on
        assert codes.tolist() == [[0, 2, 6, 15]]
        assert (scale.item(), zero.item()) == (0.5, 3)
        assert torch.equal(quantisers.dequantise_groups(codes, scale, zero), weight)
    with pytest.raises(ValueError, match="cannot be cut into groups of 3"):
        quantisers.quantise_groups(weight, 3)


PUBLISHED = {  # mean |error| of a million numbers from N(0, 1), by block: bitsandbytes' tests; int4: a run with numpy
    32: {"nf4": 0.067746, "fp4": 0.088925, "int4": 0.071711, "double": 0.067917},
    64: {"nf4": 0.072798, "fp4": 0.096543, "int4": 0.080352, "double": 0.072884},
    128: {"nf4": 0.076831, "fp4": 0.102969, "int4": 0.088016, "double": 0.076981},
    256: {"nf4": 0.080337, "fp4": 0.108684, "int4": 0.095012, "double": 0.080495},
}


def mean_error(x: Tensor, kind: str, block: int) -> float:
    if kind == "int4":
        rows = x.view(-1, block)
        dense = quantisers.dequantise_groups(*quantisers.quantise_groups(rows, block, True, torch.float32)).view(-1)
    else:
        levels: Levels = "fp4" if kind == "fp4" else "nf4"
        codes, absmax = quantisers.quantise_levels(x, levels, block)
        if kind == "double":
            nested = quantisers.nest(absmax)
            absmax = quantisers.dequantise_blocks(nested.codes, nested.absmax) + nested.offset
        dense = quantisers.dequantise_levels(codes, absmax, levels, block)
    return float((x - dense).abs().mean())


@pytest.mark.parametrize("block", PUBLISHED)
def test_the_published_errors_are_reached_again(block: int) -> None:
    x = numbers(2**22, seed=1)  # four million: the mean of one wavers by 7e-5
    found = {kind: mean_error(x, kind, block) for kind in PUBLISHED[block]}
    assert found == pytest.approx(PUBLISHED[block], abs=2e-4 if block > 64 else 1e-4)
    if block in (64, 128):
        assert 0.20 < 1 - found["nf4"] / found["fp4"] < 0.26
        assert found["nf4"] < 0.92 * found["int4"]
