"""Quantising by what a model reads: GPTQ, AWQ and SmoothQuant over the block-wise driver."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from calibrating import SIZES, WINDOWS, correlated, error, moments_of
from langwright import load_model
from langwright.compression.calibration import CalibratedBlock, visit_blocks
from langwright.compression.folding import clipped, scale_by_activations, smooth
from langwright.compression.quantise import Method, compress_folder
from langwright.compression.second_order import correct, gptq
from langwright.models.families import FAMILIES
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import OpenedFolder, new_model, save_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.models.surgery.quantise import MIXED, Scheme
from langwright.parts.quantised import FourBitBlocks, Int8Rows, IntGroups, QuantisedLinear
from oracles import VOCABULARY, Case, oracle
from refusals import refused


def folder(family: str, path: Path) -> Path:
    oracle(Case(family, SIZES[family])).save_pretrained(path)
    return path


@pytest.mark.parametrize("pack", [IntGroups.quantise, Int8Rows.quantise, FourBitBlocks.quantise])
@pytest.mark.parametrize("seed", [0, 1])
def test_gptq_errs_less_than_rounding(pack: Any, seed: int) -> None:
    x, w = correlated(512, 128, seed), torch.randn(32, 128, generator=torch.Generator().manual_seed(seed))
    nearest = pack(w)
    found = gptq(w, moments_of(x), nearest)
    assert error(x, w, found.full_weight()) < 0.8 * error(x, w, nearest.full_weight())
    assert torch.equal(found.grid().scale, nearest.grid().scale)


def test_the_grid_of_a_packed_weight_holds_its_numbers() -> None:
    w = correlated(8, 128)
    for packed in (IntGroups.quantise(w, bits=3), IntGroups.quantise(w, 32, False), FourBitBlocks.quantise(w)):
        codes, values = packed.grid().nearest(packed.full_weight(torch.float32), slice(None))
        torch.testing.assert_close(values, packed.full_weight(torch.float32), rtol=1e-6, atol=1e-7)
        assert torch.equal(packed.with_levels(codes).full_weight(), packed.full_weight())


def test_columns_left_take_the_error_as_least_squares_would() -> None:
    """With the first columns fixed, the rest are what a dense solve of min |X (w - v)|² + λ |w - v|² gives."""
    x, w = correlated(256, 24).double(), correlated(3, 24, 7).double()
    fixed = 10

    def decide(part: Tensor, columns: Tensor, pivots: Tensor) -> Any:
        return lambda j, column: column.round() if columns[j] < fixed else column

    found = correct(w, moments_of(x), decide, block=8).double()
    h = 2 / 256 * x.t() @ x
    h += 0.01 * h.diagonal().mean() * torch.eye(24, dtype=torch.double)
    change = found[:, :fixed] - w[:, :fixed]
    wanted = w[:, fixed:] - torch.linalg.solve(h[fixed:, fixed:], h[fixed:, :fixed] @ change.t()).t()
    torch.testing.assert_close(found[:, fixed:], wanted, rtol=1e-3, atol=1e-3)


def test_inputs_that_never_come_weigh_nothing() -> None:
    x, w = correlated(64, 64), correlated(4, 64, 3)
    x[:, 5] = 0
    assert not gptq(w, moments_of(x), IntGroups.quantise(w)).full_weight()[:, 5].any()


def test_groups_are_the_layers_that_read_the_same() -> None:
    model = new_model("llama", by_depth("llama", 1, VOCABULARY, 32, dropout=0.0)).eval()
    seen: list[list[list[str]]] = []

    def visit(block: CalibratedBlock) -> None:
        seen.append([[w.modules[0].rpartition(".")[2] for w in group.weights] for group in block.groups])
        alone, together = [block.moments(group)[0] for group in block.groups], block.moments(*block.groups)
        for one, other in zip(alone, together, strict=True):
            assert one.tokens == other.tokens == sum(ids.numel() for ids in WINDOWS)
            assert torch.equal(one.second, other.second)

    visit_blocks(model, WINDOWS, visit)
    assert seen == [[["q", "k", "v"], ["output"], ["gate", "input"], ["output"]]]


def test_a_block_reads_what_the_changed_ones_before_it_give() -> None:
    model = new_model("llama", by_depth("llama", 2, VOCABULARY, 32, dropout=0.0)).eval()
    given = []

    def visit(block: CalibratedBlock) -> None:
        given.append(block.moments(block.groups[0])[0].second)
        for group in block.groups:
            for weight in group.weights:
                weight.set(0 * weight.matrix)

    visit_blocks(model, WINDOWS, visit)
    norm = model.body.blocks[1].attention.in_norm  # type: ignore[union-attr]
    entered = [model.body.enter(ids)[0] for ids in WINDOWS]  # what is zero adds nothing
    x = torch.cat([norm(one).flatten(0, 1) for one in entered]).detach()  # type: ignore[operator]
    torch.testing.assert_close(given[1], x.t() @ x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "gemma"])
def test_folding_changes_nothing(family: str, tmp_path: Path) -> None:
    model, before = (load_model(folder(family, tmp_path / "plain")) for _ in range(2))
    visit_blocks(model, WINDOWS, smooth)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))]
    assert any("in_norm" in name for name in moved)
    with torch.no_grad():
        torch.testing.assert_close(model(WINDOWS[0]), before(WINDOWS[0]), rtol=1e-3, atol=1e-4)


def test_clipping_never_errs_more() -> None:
    model = new_model("llama", by_depth("llama", 1, VOCABULARY, 32, dropout=0.0)).eval()
    scheme = Scheme("int3", group=32)

    def visit(block: CalibratedBlock) -> None:
        for group, moments in zip(block.groups, block.moments(*block.groups), strict=True):
            for weight in group.weights:
                matrix = weight.matrix
                for columns in (slice(i, i + 32) for i in range(0, matrix.shape[1], 32)):
                    own = moments.second[columns, columns]
                    errors = []
                    for one in (matrix, clipped(weight, moments, scheme)):
                        change = (scheme.quantise(one).full_weight() - matrix)[:, columns]
                        errors.append((change @ own * change).sum())
                    assert errors[1] <= errors[0] * 1.0001

    visit_blocks(model, WINDOWS, visit)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("family", SIZES)
def test_closer_to_the_model_than_rounding(family: str, method: Method, tmp_path: Path) -> None:
    source = OpenedFolder(folder(family, tmp_path / "plain"))
    errors = []
    for way in ("rtn", method):
        result = compress_folder(source, tmp_path / way, Scheme("int3", group=32), way, WINDOWS)
        assert result.weights == sum(m.packed.codes.numel() * 2 for m in quantised(load_model(tmp_path / way)))
        errors.append(change(tmp_path / way, tmp_path / "plain"))
    assert errors[1] < errors[0]


def test_outliers_are_smoothed(tmp_path: Path) -> None:
    """One input in 64 is a hundred times as large, and its column as small: the same model, hard on activations."""
    model = load_model(folder("llama", tmp_path / "whole"))
    for block in model.body.blocks:
        block.attention.in_norm.weight.data[5] *= 100  # type: ignore[union-attr, operator, index]
        for layer in (block.attention.fn.q, block.attention.fn.k, block.attention.fn.v):  # type: ignore[union-attr]
            layer.weight.data[:, 5] /= 100  # type: ignore[union-attr, operator, index]
    save_model(model, None, tmp_path / "plain")
    for way in ("rtn", "smoothquant"):
        compress_folder(OpenedFolder(tmp_path / "plain"), tmp_path / way, Scheme("w8a8"), way, WINDOWS)  # type: ignore[arg-type]
    assert change(tmp_path / "smoothquant", tmp_path / "plain") < 0.3 * change(tmp_path / "rtn", tmp_path / "plain")


def change(folder: Path, plain: Path) -> float:
    """The mean square that logits change by."""
    with torch.no_grad():
        return float((load_model(folder)(WINDOWS[0]) - load_model(plain)(WINDOWS[0])).square().mean())


def quantised(model: Model) -> list[QuantisedLinear]:
    return [module for module in model.modules() if isinstance(module, QuantisedLinear)]


@pytest.mark.parametrize(("kind", "method"), [("int4", "gptq"), ("int3", "awq"), ("w8a8", "smoothquant")])
def test_transformers_opens_what_is_calibrated(
    kind: Literal["int4", "int3", "w8a8"], method: Method, tmp_path: Path
) -> None:
    import transformers

    source = OpenedFolder(folder("llama", tmp_path / "plain"))
    compress_folder(source, tmp_path / "small", Scheme(kind), method, WINDOWS)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    ours = load_model(tmp_path / "small")
    with torch.no_grad():
        difference = (theirs(WINDOWS[0]).logits - ours(WINDOWS[0])).abs()
    assert difference.mean() < (0.05 if kind == "w8a8" else 1e-4)  # half-way activations are rounded here or there


@pytest.mark.parametrize("bits", [3, 4])
def test_asymmetric_groups_are_read_as_compressed_tensors_means_them(bits: int, tmp_path: Path) -> None:
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from safetensors.torch import load_file

    compress_folder(
        OpenedFolder(folder("llama", tmp_path / "plain")), tmp_path / "small", Scheme(f"int{bits}", symmetric=False)
    )  # type: ignore[arg-type]
    name = "model.layers.0.mlp.up_proj."
    tensors = load_file(tmp_path / "small" / "model.safetensors")
    own = {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}
    own["weight_scale"] = own["weight_scale"].float()
    told = {"num_bits": bits, "symmetric": False, "strategy": "group", "group_size": 64}
    scheme = QuantizationScheme(targets=["Linear"], weights=told)  # type: ignore[arg-type]
    theirs = PackedQuantizationCompressor.decompress(own, scheme)["weight"]
    up = load_model(tmp_path / "small").get_submodule("body.blocks.0.feedforward.fn.input").full_weight()
    step = own["weight_scale"].abs().repeat_interleave(64, 1)
    assert ((theirs - up).abs() <= step / 64 + 1e-6).all()  # zeros are kept in bfloat16 here


TABLE = [name for name, row in FAMILIES.items() if row.reads == "text" and not row.is_encoder_decoder]


@pytest.mark.parametrize("family", TABLE)
def test_every_stack_in_the_table(family: str) -> None:
    """Each linear layer is seen by the driver, experts without tokens excepted, or named where nothing sees it."""
    model, scheme = new_model(family, by_depth(family, 1, VOCABULARY, 32, dropout=0.0)).eval(), Scheme("int4", group=16)
    before = sum(isinstance(module, MIXED) for module in model.modules())

    def visit(block: CalibratedBlock) -> None:
        scale_by_activations(block, scheme)
        for group, moments in zip(block.groups, block.moments(*block.groups), strict=True):
            assert moments.tokens or family == "mixtral"
            for weight in group.weights:
                weight.pack(scheme.quantise(clipped(weight, moments, scheme)))

    if FAMILIES[family].carries and family != "cnn":
        with refused("layers.0.input.weight"):
            visit_blocks(model, WINDOWS, visit)
        return
    visit_blocks(model, WINDOWS, visit)
    assert before <= len(quantised(model))
    assert model(WINDOWS[0]).isfinite().all()


MEASURE = """
import gc, sys, threading
from pathlib import Path
import torch
from langwright.base.allocator import give_back_memory
from langwright.compression.quantise import compress_folder
from langwright.models.folder import OpenedFolder
from langwright.models.surgery.quantise import scheme_of

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

def watch():
    global peak
    while not done.wait(0.0005):
        peak = max(peak, anonymous())

windows = [torch.zeros(1, 16, dtype=torch.long)]
compress_folder(OpenedFolder(Path(sys.argv[1])), Path(sys.argv[2]), scheme_of("w8a8"), "smoothquant", windows)
gc.collect()  # what the first time imports and allocates is not the weights'
give_back_memory()
before = peak = anonymous()
done = threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
compress_folder(OpenedFolder(Path(sys.argv[3])), Path(sys.argv[4]), scheme_of("w8a8"), "smoothquant", windows)
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="anonymous memory is read from /proc")
def test_one_block_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """24 layers touch little more memory than four, and much less than their weights take."""
    shape = {"vocab_size": 64, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    touched, sizes = [], []
    for layers in (1, 4, 24):
        config = LlamaConfig(**shape, num_key_value_heads=4, num_hidden_layers=layers)
        model = new_model("llama", config)
        sizes.append(sum(p.nbytes for p in model.parameters()))
        save_model(model, None, tmp_path / str(layers))
        if layers > 1:
            given = [tmp_path / "1", tmp_path / f"warm {layers}", tmp_path / str(layers), tmp_path / f"to {layers}"]
            done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, given)], capture_output=True, check=True)
            touched.append(int(done.stdout))
    assert sizes[2] > 100e6
    assert touched[1] < touched[0] + 0.2 * (sizes[2] - sizes[1]), (touched, sizes)
    assert touched[1] < 0.5 * sizes[2], (touched, sizes)
