"""Quantised models: from folder to folder and while loading, for every way that families lay their weights out."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from langwright import load_model
from langwright.base.errors import UserError
from langwright.compression.quantise import Compression, compress_folder
from langwright.models.folder import OpenedFolder, new_model, save_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.models.surgery.quantise import KINDS, scheme_of
from langwright.parts import quantisers
from langwright.parts.linear import Linear
from langwright.parts.quantised import QuantisedLinear
from langwright.planning.cost import parameters
from oracles import VOCABULARY, Case, oracle, random_ids
from refusals import refused

WIDE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 192, "max_position_embeddings": 64,
    },
    "gpt_neox": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
        "max_position_embeddings": 64,
    },
    "mixtral": {
        "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "num_local_experts": 3, "max_position_embeddings": 64,
    },
}  # fmt: skip
"""Sizes that fill blocks of 64. Each family lays its weights out in another way: fused and transposed (gpt2), plain
(llama), in turns head by head (gpt_neox), as experts (mixtral)."""


def saved_by_transformers(family: str, folder: Path, **changes: Any) -> Path:
    oracle(Case(family, WIDE[family] | changes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=WIDE)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `transformers` saved."""
    return saved_by_transformers(request.param, tmp_path_factory.mktemp("plain") / request.param)


def compress(source: Path, out: Path, kind: str) -> Compression:
    return compress_folder(OpenedFolder(source), out, scheme_of(kind))


def logits(model: Model) -> Tensor:
    with torch.no_grad():
        return model(random_ids(2, 9))


def linears(model: nn.Module) -> dict[str, Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_folder_is_what_loading_with_bits_gives(kind: str, plain: Path, tmp_path: Path) -> None:
    result = compress(plain, tmp_path / "small", kind)
    opened, rounded, dense = load_model(tmp_path / "small"), load_model(plain, bits=kind), load_model(plain)
    for name, linear in linears(opened).items():
        before = linears(dense)[name].full_weight().detach()
        assert torch.equal(linear.full_weight(), linears(rounded)[name].full_weight())
        assert isinstance(linear, QuantisedLinear) == ("router" not in name)
        assert (linear.full_weight() - before).norm() / before.norm() <= 1.5 * result.largest_relative_error
    assert torch.equal(logits(opened), logits(rounded))
    assert parameters(opened) == parameters(dense)  # type: ignore[arg-type]
    assert result.bytes_after < 0.65 * result.bytes_before


def test_only_the_chosen_are_rounded_and_all_else_is_as_it_was(plain: Path) -> None:
    model, before = load_model(plain, bits="nf4"), load_model(plain)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))
    assert any(name.startswith("body.embed.") for name, _ in model.named_parameters())
    assert not isinstance(model.head, QuantisedLinear)


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((f, k) for f in ("gpt2", "llama") for k in ("nf4", "fp4", "int8")), ("llama", "int4"), ("gpt_neox", "int3")],
)
def test_transformers_opens_our_folders(family: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import transformers

    source = saved_by_transformers(family, tmp_path / "plain")
    compress(source, tmp_path / "small", kind)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    ours = load_model(tmp_path / "small")
    difference = (wanted(theirs) - logits(ours)).abs().max()
    assert difference < 1e-4


@pytest.mark.parametrize("kind", ["nf4", "fp4-single", "int8"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_we_open_the_folders_of_transformers(kind: str, family: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import transformers

    source = saved_by_transformers(family, tmp_path / "plain")
    asked = {"load_in_8bit": True}
    if kind != "int8":
        asked = {"load_in_4bit": True, "bnb_4bit_quant_type": kind[:3], "bnb_4bit_use_double_quant": kind == "nf4"}  # type: ignore[dict-item]
    config = transformers.BitsAndBytesConfig(**asked)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, quantization_config=config, device_map="cpu")
    theirs.eval().save_pretrained(tmp_path / "small")
    ours = load_model(tmp_path / "small")
    difference = (wanted(theirs) - logits(ours)).abs().max()
    assert difference < 1e-4


def wanted(theirs: Any) -> Tensor:
    """Their logits. Without gradients bitsandbytes computes in bfloat16 on a CPU; with int8 weights it rounds the
    activations as well, so these are made dense.
    """
    for module in theirs.modules():
        if type(module).__name__ == "Linear8bitLt":
            scale = module.state.SCB if module.weight.SCB is None else module.weight.SCB
            dense = module.weight.data * scale[:, None] / 127
            module.forward = partial(F.linear, weight=dense, bias=module.bias)
    return theirs(random_ids(2, 9)).logits.detach()


def test_gradients_are_those_of_the_dense_weights(plain: Path) -> None:
    """Of every parameter that is left, through all the linear maps."""
    few, dense = load_model(plain, bits="nf4"), load_model(plain)
    for name, linear in linears(few).items():
        dense.get_submodule(name).weight.data = linear.full_weight()
    ids = random_ids(2, 9)
    for model in (few, dense):
        model(ids).square().mean().backward()
    for name, parameter in few.named_parameters():
        wanted = dense.get_parameter(name).grad
        assert wanted is not None
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-6 + 1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("family", ["t5", "bert", "bloom"])
def test_encoders_and_encoder_decoders_too(family: str, tmp_path: Path) -> None:
    from langwright.models.families.bert import BertConfig
    from langwright.models.families.t5 import T5Config

    sizes = {"t5": T5Config(VOCABULARY, 64, 16, 128, 2, num_heads=4), "bert": BertConfig(VOCABULARY, 64, 2, 4, 128)}
    config = sizes.get(family) or by_depth(family, 2, VOCABULARY, 32, dropout=0.0)
    model = new_model(family, config)
    save_model(model, None, tmp_path / "plain")
    compress(tmp_path / "plain", tmp_path / "small", "nf4")
    opened = load_model(tmp_path / "small")
    assert sum(isinstance(m, QuantisedLinear) for m in opened.modules()) > 8
    rounded = load_model(tmp_path / "plain", bits="nf4")
    assert all(
        torch.equal(linear.full_weight(), linears(rounded)[name].full_weight())
        for name, linear in linears(opened).items()
    )


def test_bf16_folders(tmp_path: Path) -> None:
    config = by_depth("llama", 1, VOCABULARY, 32, dropout=0.0)
    save_model(new_model("llama", config).bfloat16(), None, tmp_path / "plain")
    compress(tmp_path / "plain", tmp_path / "small", "nf4")
    model = load_model(tmp_path / "small")
    assert logits(model).dtype == torch.bfloat16
    assert linears(model)["body.blocks.0.attention.fn.q"].full_weight().dtype == torch.bfloat16
    assert logits(load_model(tmp_path / "small", dtype=torch.float32)).dtype == torch.float32


# What is refused


def edited(folder: Path, **changes: Any) -> Path:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))
    (folder / "langwright.json").unlink(missing_ok=True)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    compress(saved_by_transformers("llama", tmp_path / "plain"), tmp_path / "small", "nf4")
    return tmp_path / "small"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"quant_method": "gptq"}, '"gptq"'),
        ("gptq", '"gptq"'),
        ({"quant_method": "langwright", "bits": 3}, "bits = 3"),
        ({"quant_method": "bitsandbytes", "bnb_4bit_quant_storage": "float16"}, "bnb_4bit_quant_storage"),
        ({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "af4"}, "bnb_4bit_quant_type"),
        ({"quant_method": "bitsandbytes", "sparsity": 2}, '"sparsity"'),
    ],
)
def test_other_ways_are_refused_by_name(told: Any, message: str, small: Path) -> None:
    with refused(message):
        load_model(edited(small, quantization_config=told))


DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        (DOWN, torch.zeros(8, 1, dtype=torch.uint8), "shape \\[8\\], where torch.uint8 of shape \\[6144\\] belongs"),
        (f"{DOWN}.absmax", torch.zeros(5, dtype=torch.uint8), "shape \\[5\\]"),
        (f"{DOWN}.nested_absmax", torch.zeros(2), "shape \\[2\\]"),
        (f"{DOWN}.quant_map", torch.zeros(16), "levels other than those of nf4"),
        (f"{DOWN}.nested_quant_map", torch.zeros(256), "rounded in another way"),
    ],
)
def test_tensors_that_do_not_fit_are_named(key: str, tensor: Tensor, message: str, small: Path) -> None:
    tensors = load_file(small / "model.safetensors")
    save_file(tensors | {key: tensor}, small / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f'tensor "{DOWN}".* {message}'):
        load_model(edited(small))


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        (DOWN, lambda t: t[:3].clone(), "[3, "),
        (DOWN, lambda t: t.long(), "int64"),
        (DOWN, lambda t: t * float("nan"), "NaN"),
        ("model.norm.weight", lambda t: t.int(), "int32"),
    ],
)
def test_what_could_not_be_opened_is_not_written(name: str, spoil: Any, told: str, tmp_path: Path) -> None:
    saved_by_transformers("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {name: spoil(tensors[name])}, tmp_path / "model.safetensors", {"format": "pt"})
    with refused(f'"{name}"', told):
        compress(tmp_path, tmp_path / "x", "int8")
    assert not (tmp_path / "x").exists()


def test_rounding_twice_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quantised already"):
        compress(small, tmp_path / "smaller", "int8")
    with refused("nf4", "bits", 8):
        load_model(small, bits=8)
    assert torch.equal(logits(load_model(small, bits="nf4")), logits(load_model(small)))


def test_what_cannot_be_cut_is_refused_by_name(tmp_path: Path) -> None:
    saved_by_transformers("gpt2", tmp_path / "plain", n_embd=36, n_head=3)
    with refused("c_attn.weight", 36, 32):
        compress(tmp_path / "plain", tmp_path / "small", "int4")
    with refused("c_attn.weight", 36, 64):
        load_model(tmp_path / "plain", bits="nf4")
    with refused("bits", 5):
        load_model(tmp_path / "plain", bits=5)


def test_the_int4_of_before_is_read(tmp_path: Path) -> None:
    plain = saved_by_transformers("llama", tmp_path / "plain")
    tensors = load_file(plain / "model.safetensors")
    weight = tensors[DOWN]
    codes, scale, zero = quantisers.quantise_groups(weight, 64, symmetric=False)
    tensors |= {DOWN: quantisers.pack(codes), f"{DOWN}.scale": scale, f"{DOWN}.zero": zero + 0.01}
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    model = load_model(edited(plain, quantization_config={"quant_method": "langwright", "bits": 4}))
    found = model.get_submodule("body.blocks.0.feedforward.fn.output").full_weight()  # type: ignore[operator]
    assert torch.equal(found, quantisers.dequantise_groups(codes, scale, zero + 0.01))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
        ({"config_groups": {"g": {"weights": {"num_bits": 2, "type": "int"}}}}, "config_groups.g.weights.num_bits = 2"),
        ({"config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}}}}, "config_groups.g.weights.type"),
        ({"config_groups": {"g": {"weights": {"num_bits": 4, "dynamic": True}}}}, "config_groups.g.weights.dynamic"),
        ({"config_groups": {}}, "config_groups"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
    ],
)
def test_other_ways_of_compressed_tensors_are_refused_by_name(changes: Any, message: str, tmp_path: Path) -> None:
    compress(saved_by_transformers("llama", tmp_path / "plain"), tmp_path / "small", "int4")
    told = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    with refused(message):
        load_model(edited(tmp_path / "small", quantization_config=told | changes))


@pytest.mark.parametrize("end", ["packed", "scale", "shape"])
def test_words_that_do_not_fit_are_named(end: str, tmp_path: Path) -> None:
    compress(saved_by_transformers("llama", tmp_path / "plain"), tmp_path / "small", "int4")
    path = tmp_path / "small" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {f"{DOWN}_{end}": tensors[f"{DOWN}_{end}"][:1].clone()}, path, {"format": "pt"})
    with refused(DOWN):
        load_model(edited(tmp_path / "small"))
