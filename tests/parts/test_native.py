"""Native kernels: they compute what PyTorch computes, row by row; where they cannot be built PyTorch runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langwright.models.surgery.quantise import scheme_of
from langwright.parts import native
from langwright.parts.bias import Lowered
from langwright.parts.kept import FORMS
from langwright.parts.kernels import attend_explicitly
from langwright.parts.linear import Linear, affine, together
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope, rotate
from langwright.parts.quantised import FourBitBlocks, Int8Rows, IntGroups, Packed, QuantisedLinear


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def quantise(kind: str, weight: Tensor) -> Packed:
    if kind == "int8":
        return Int8Rows.quantise(weight)
    if kind.startswith("int4"):
        return IntGroups.quantise(weight, int(kind[5:]))
    return FourBitBlocks.quantise(weight, "nf4" if kind == "nf4" else "fp4")


KINDS = ("int8", "int4 32", "int4 64", "int4 192", "nf4", "fp4")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True, params=["vectors", "loops"])
def built(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kernels for this processor, and those for one without its instructions."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "loops":
            patch.setattr(native, "FLAGS", (*native.FLAGS, "-O1", "-DLOOPS"))
        native.native.cache_clear()
        told = native.native()
        if told.library is None:
            pytest.skip(f"SKIPPED FOR WANT OF NATIVE KERNELS: {told.reason}")
        yield request.param
    native.native.cache_clear()


@every_kind
@every_dtype
@pytest.mark.parametrize("outputs", [64, 100])
def test_products_equal_those_of_the_dense_weight(kind: str, dtype: torch.dtype, outputs: int) -> None:
    packed = quantise(kind, numbers(outputs, 192))
    dense = packed.full_weight(torch.float64)
    for rows in (100, 1, 2, 5, 6, 7, 16):
        x = numbers(192, rows, seed=rows).to(dtype).t()  # columns side by side: not contiguous
        assert error(packed.product(x), x.double() @ dense.t()) < (1e-6 if dtype == torch.float32 else 4e-3)
    assert packed.layout == "tiles"
    assert packed.product(numbers(0, 192).to(dtype)).shape == (0, outputs)


@every_kind
@every_dtype
def test_a_row_is_the_same_alone_and_among_others(kind: str, dtype: torch.dtype) -> None:
    packed, x = quantise(kind, numbers(256, 192)), numbers(16, 192, seed=1).to(dtype)
    together = packed.product(x)
    assert all(torch.equal(packed.product(x[row : row + 1])[0], together[row]) for row in range(16))
    torch.set_num_threads(3)
    try:
        assert torch.equal(packed.product(x), together)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 7), (64, 33), (130, 192), (66, 1000)])
def test_bfloat16(outputs: int, inputs: int) -> None:
    weight, bias = numbers(outputs, inputs).bfloat16(), numbers(outputs, seed=2).bfloat16()
    x = numbers(3, 4, inputs, seed=1).bfloat16()
    with torch.no_grad():
        for shift in (None, bias):
            wanted = F.linear(x.double(), weight.double(), None if shift is None else shift.double())
            found = affine(x, weight, shift)
            assert found.dtype == torch.bfloat16
            assert error(found, wanted) < 4e-3
            assert torch.equal(affine(x[1:2, 2], weight, shift)[0], found[1, 2])
            assert torch.equal(affine(x.mT.contiguous().mT, weight, shift), found)
        assert error(affine(x, weight.t().contiguous().t()), x.double() @ weight.double().t()) < 4e-3
        assert affine(x[:, :0], weight).shape == (3, 0, outputs)


@every_dtype
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 64), (6, 2, 80), (2, 1, 5)])
@pytest.mark.parametrize("time", [1, 3])
def test_attention_over_blocks(dtype: torch.dtype, heads: int, kv_heads: int, width: int, time: int) -> None:
    size, starts, softcap = 4, (6, 0, 11), 3.0 if time == 3 else None
    rows, kernels = len(starts), native.library()
    assert kernels is not None
    keys, values = (numbers(20, kv_heads, size, width, seed=n).to(dtype) for n in range(2))
    q, k, v = (numbers(rows, time, n, width, seed=n).to(dtype).transpose(1, 2) for n in (heads, kv_heads, kv_heads))
    tables = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:12].view(rows, 4)
    first, counts = torch.tensor(starts)[:, None], torch.tensor([[time], [time], [max(1, time - 1)]])
    position = torch.arange(16)
    seen = position <= first[..., None, None] + torch.arange(time)[:, None]  # [rows, 1, time, keys]
    added = numbers(1, heads, time, 16, seed=7)
    for allowed, shift in ((seen, None), (seen, added)):
        there = tables, first, counts
        found = native.attend_blocks(kernels, q, k, v, ((keys,), (values,)), there, 0.3, softcap, (allowed, shift))
        for row in range(rows):
            real = int(counts[row])
            for pool, new in ((keys, k), (values, v)):
                lying = pool[tables[row]].transpose(1, 2).flatten(0, 1)[starts[row] : starts[row] + real]
                assert torch.equal(lying, new[row, :, :real].transpose(0, 1))
            mine = [p[tables[row]].transpose(0, 1).flatten(1, 2)[None].double() for p in (keys, values)]
            mask = torch.where(seen[row], 0.0, -torch.inf) + (0 if shift is None else shift[0])
            lowered = Lowered(scores=mask[None, :, :real].double())
            wanted, _ = attend_explicitly(q[row : row + 1, :, :real].double(), *mine, lowered, 0.3, softcap=softcap)
            assert error(found[row, :, :real], wanted[0]) < (1e-6 if dtype == torch.float32 else 4e-3)
            one = slice(row, row + 1)
            where, masks = (tables[one], first[one], counts[one]), (allowed[one], shift)
            alone = native.attend_blocks(
                kernels, q[one], k[one], v[one], ((keys,), (values,)), where, 0.3, softcap, masks
            )
            assert torch.equal(alone[0, :, :real], found[row, :, :real])


@every_dtype
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 64), (6, 2, 80), (2, 1, 5)])
@pytest.mark.parametrize("time", [1, 3])
def test_attention_over_blocks_in_8_bits(dtype: torch.dtype, heads: int, kv_heads: int, width: int, time: int) -> None:
    """What is new is kept as `Int8` packs it; the result is that over keys and values unpacked before."""
    size, starts, form = 4, (6, 0, 11), FORMS["int8"]
    keys, values = (form.pack(numbers(20, kv_heads, size, width, seed=n).to(dtype)) for n in range(2))
    q, k, v = (numbers(3, time, n, width, seed=n).to(dtype).transpose(1, 2) for n in (heads, kv_heads, kv_heads))
    tables = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:12].view(3, 4)
    first, counts = torch.tensor(starts)[:, None], torch.full((3, 1), time)
    seen = torch.arange(16) <= first[..., None, None] + torch.arange(time)[:, None]
    kernels = native.library()
    assert kernels is not None
    where = tables, first, counts
    found = native.attend_blocks(kernels, q, k, v, (keys, values), where, 0.3, None, (seen, None))
    for row, start in enumerate(starts):
        for pool, new in ((keys, k), (values, v)):
            for held, packed in zip(pool, form.pack(new[row].transpose(0, 1)), strict=True):
                lying = held[tables[row]].transpose(1, 2).flatten(0, 1)[start : start + time]
                assert torch.equal(lying, packed)
        mine = (
            tuple(part[tables[row]].transpose(0, 1).flatten(1, 2)[None] for part in pool) for pool in (keys, values)
        )
        lowered = Lowered(scores=torch.where(seen[row], 0.0, -torch.inf)[None].double())
        dense = (form.unpack(parts, torch.float64) for parts in mine)
        wanted, _ = attend_explicitly(q[row : row + 1].double(), *dense, lowered, 0.3)
        assert error(found[row], wanted[0]) < (1e-6 if dtype == torch.float32 else 4e-3)
    k[1, 0, 0, 0] = torch.inf
    found = native.attend_blocks(kernels, q, k, v, (keys, values), where, 0.3, None, (seen, None))
    assert found[1].isnan().any()
    assert found[::2].isfinite().all()


@every_dtype
@pytest.mark.parametrize("dim", [64, 100, 3])
@pytest.mark.parametrize(
    ("kind", "bias", "plus_one"), [("layer", True, False), ("rms", False, False), ("rms", False, True)]
)
def test_norms(dtype: torch.dtype, dim: int, kind: Literal["layer", "rms"], bias: bool, plus_one: bool) -> None:
    norm = Norm(dim, kind, 1e-5, bias=bool(bias), plus_one=plus_one)
    for number, parameter in enumerate(norm.parameters()):
        parameter.data = numbers(dim, seed=number + 1)
    x = (3 + numbers(2, dim, 20)).to(dtype).mT  # not contiguous
    wanted = norm(x.detach().requires_grad_())
    with torch.no_grad():
        found = norm(x)
        assert found.dtype == dtype
        assert error(found, wanted.detach()) < (1e-6 if dtype == torch.float32 else 4e-3)
        assert torch.equal(norm(x[1:, 3:4]), found[1:, 3:4])
        assert norm(x[:, :0]).shape == (2, 0, dim)


def test_what_is_not_finite_stays_in_its_row() -> None:
    packed, x = quantise("int4 64", numbers(64, 192)), numbers(3, 192).bfloat16()
    x[1, 5] = torch.nan
    found = packed.product(x)
    assert found[1].isnan().all()
    assert torch.equal(found[::2], packed.product(x[::2]))


def test_codes_without_a_place_in_tiles_are_multiplied_all_the_same() -> None:
    codes = torch.full((64, 32), -128, dtype=torch.int8)
    packed, x = Int8Rows(codes, torch.ones(64), torch.float32), numbers(2, 32).bfloat16()
    assert error(packed.product(x), x.double() @ packed.full_weight(torch.float64).t()) < 6e-3
    assert packed.layout == "plain"
    odd = Int8Rows.quantise(numbers(64, 33))
    assert error(odd.product(x := numbers(2, 33)), x @ odd.full_weight().t()) < 1e-6


@pytest.mark.parametrize("lack", ["compiler", "working compiler", "wish", "folder", "trust"])
def test_pytorch_runs_where_nothing_can_be_built(lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = numbers(64, 192), numbers(4, 192, seed=1)
    monkeypatch.setenv("LANGWRIGHT_CACHE", str(tmp_path / "cache"))
    if lack == "compiler":
        monkeypatch.setenv("PATH", "")
    elif lack == "wish":
        monkeypatch.setenv(native.SWITCH, "torch")
    elif lack == "folder":
        (tmp_path / "cache").write_text("a file")
    elif lack == "trust":
        (tmp_path / "cache" / "kernels").mkdir(parents=True)
        (tmp_path / "cache" / "kernels").chmod(0o777)
    else:
        (tmp_path / "c++").write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
        (tmp_path / "c++").chmod(0o755)
        monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    with_kernels = {kind: quantise(kind, weight).product(x) for kind in KINDS}
    native.native.cache_clear()
    told = native.native()
    assert told.library is None
    said = {"compiler": "g++", "working compiler": "no such machine", "wish": native.SWITCH}.get(lack, "cache")
    assert said in told.reason
    for kind, wanted in with_kernels.items():
        packed = quantise(kind, weight)
        assert error(packed.product(x), wanted) < 1e-6
        assert error(packed.product(x.bfloat16()), wanted) < 1e-2
        assert packed.layout != "tiles"
    assert not list(tmp_path.rglob("*.so"))


def test_a_damaged_file_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGWRIGHT_CACHE", str(tmp_path))
    native.native.cache_clear()
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    built = native._build(compiler)
    built.write_bytes(built.read_bytes()[:100])
    told = native.native()
    assert told.library is not None, told.reason
    assert told.file == built


@pytest.mark.parametrize("bits", [16, 8, 4, "nf4"])
def test_layers_of_one_input_give_together_what_each_gives(bits: int | str) -> None:
    made = [Linear(192, outputs, bias=outputs == 64 and bits == 16) for outputs in (64, 130, 40)]
    for seed, layer in enumerate(made):
        layer.weight = nn.Parameter(numbers(*layer.weight.shape, seed=seed).bfloat16())
        if layer.bias is not None:
            layer.bias = nn.Parameter(numbers(64).bfloat16())
    layers = made if bits == 16 else [QuantisedLinear(scheme_of(bits).quantise(one.weight.detach())) for one in made]
    x, seen = numbers(2, 3, 192, seed=9).bfloat16(), []
    with torch.no_grad():
        wanted = [layer(x) for layer in layers]
        for found, alone in zip(together(x, *layers), wanted, strict=True):
            assert torch.equal(found, alone)
        layers[1].register_forward_hook(lambda *_: seen.append(1))
        layers[2].adapter = Doubled()
        found = together(x, *layers)
        assert seen == [1]
        assert torch.equal(found[2], 2 * wanted[2])
    assert all(y.requires_grad for y in together(x.clone().requires_grad_(), *layers))


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor, layer: Linear) -> torch.Tensor:
        return 2 * layer.plain(x)


@every_dtype
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_rotation(dtype: torch.dtype, interleaved: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of each head, and all of it; one position for all rows, and one each."""
    x = numbers(3, 1, 5 * 32).to(dtype).view(3, 1, 5, 32).transpose(1, 2)
    for turned in (32, 12):
        rope = Rope(turned, interleaved=interleaved)
        tables = rope.tables(torch.tensor([[7], [0], [123]])[:rows], dtype)
        with torch.no_grad():
            found = rotate(x, tables)
            monkeypatch.setattr(native, "serves", lambda *_: None)
            assert torch.equal(found, rotate(x, tables))
            monkeypatch.undo()
