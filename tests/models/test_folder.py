"""What the model folder holds, what it accepts from others, and what it refuses by name."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from langwright import load_model
from langwright.base.files import sha256_file
from langwright.models import weights
from langwright.models.folder import new_model, refuse_out, save_model
from langwright.models.folder import saving as folder_module
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.models.weights import read_tensors
from langwright.text.training import raw_bytes
from oracles import CASES, LINEAR, LLAMA3, VOCABULARY, oracle, perturb, random_ids
from refusals import Fails, refused


def tiny(family: str = "llama", vocabulary: int = VOCABULARY, **changes: Any) -> Model:
    model = new_model(family, by_depth(family, 1, vocabulary, 32, dropout=0.0)).eval()
    perturb(model)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A LLaMA folder of one layer."""
    save_model(tiny(), None, tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = read_tensors(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def same(a: Model, b: Model) -> bool:
    ids = random_ids(2, 9)
    with torch.no_grad():
        return torch.equal(a(ids), b(ids))


# What we write


def test_a_folder_holds_all_and_its_record_says_so(tmp_path: Path) -> None:
    tokenizer = raw_bytes()
    model = tiny("gpt2", tokenizer.vocab_size)
    save_model(model, tokenizer, tmp_path / "out", {"recipe": {"steps": 3}})
    record = json.loads((tmp_path / "out/langwright.json").read_text())
    assert record["format_version"] == 1
    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1  # whoever may read one file may read them all
    assert record["recipe"] == {"steps": 3}
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"langwright.json"}
    assert names == record["checksums"].keys()
    assert record["crc32_blocks"] == {
        "model.safetensors": [zlib.crc32((tmp_path / "out/model.safetensors").read_bytes())]
    }
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert all(sha256_file(tmp_path / "out" / name) == digest for name, digest in record["checksums"].items())
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 1, 2)
    assert same(load_model(tmp_path / "out"), model)


@pytest.mark.parametrize("failing", ["write_tensors", "checksums"])
def test_a_folder_that_was_not_finished_has_no_record(
    saved: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(folder_module, failing, fail)
    with pytest.raises(OSError, match="no space"):
        save_model(tiny(), None, saved)
    assert not (saved / "langwright.json").exists()
    assert not list(saved.glob(".*"))


def test_weights_that_were_not_finished_leave_the_old_ones(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    before = (saved / "model.safetensors").read_bytes()
    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_model(tiny(), None, saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert not list(saved.glob(".*"))


def test_saving_over_the_folder_that_was_loaded(saved: Path) -> None:
    model = load_model(saved)
    before = read_tensors(saved / "model.safetensors")
    save_model(model, None, saved)
    assert same(load_model(saved), model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in read_tensors(saved / "model.safetensors").items())


def test_parameters_may_come_from_elsewhere(tmp_path: Path) -> None:
    model = tiny().to(torch.bfloat16)
    masters = {name: p.detach().float() + 1e-4 for name, p in model.named_parameters()}
    save_model(model, None, tmp_path, parameters=masters)
    loaded = load_model(tmp_path)
    assert {name: p.dtype for name, p in loaded.named_parameters()} == dict.fromkeys(masters, torch.float32)
    assert all(torch.equal(p, masters[name]) for name, p in loaded.named_parameters())


def test_dtype_is_the_files_unless_given(tmp_path: Path) -> None:
    save_model(tiny().to(torch.bfloat16), None, tmp_path)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(tmp_path, dtype=torch.float32).parameters()} == {torch.float32}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert not load_model(tmp_path).training


def test_folders_that_cannot_take_a_model(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for out in (tmp_path / "file", tmp_path / "file/below/that", tmp_path / "nowhere", saved):
        with refused(out):
            refuse_out(out)
    refuse_out(tmp_path / "new")


# What others write


def test_shards_with_an_index(tmp_path: Path) -> None:
    theirs = oracle(CASES["llama"])
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert same(load_model(tmp_path / "sharded"), load_model(tmp_path / "whole"))


def test_gpt2_as_it_is_on_the_hub(tmp_path: Path) -> None:
    """No `transformer.` prefix, mask buffers, a copy of the tied head, and the fields of old configs."""
    theirs = oracle(CASES["gpt2"])
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(tmp_path / "model.safetensors").items()}
    tensors = {name: t.clone() for name, t in tensors.items()}
    for i in range(2):
        tensors[f"h.{i}.attn.bias"] = torch.ones(1, 1, 160, 160).tril()
        tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    old = {
        "n_ctx": 160, "n_special": 0, "predict_special_tokens": True, "output_past": True, "_num_labels": 1,
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    }  # fmt: skip
    edit_config(tmp_path, old)
    assert same(load_model(tmp_path), ours)
    tensors["lm_head.weight"][3, 5] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with refused('"lm_head.weight"', "embed.tokens"):
        load_model(tmp_path)


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 77.0}, LINEAR, LLAMA3])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_older_spelling_of_rope(saved: Path, rope: dict[str, Any], key: str) -> None:
    edit_config(saved, {"rope_parameters": rope, "rope_theta": None, "rope_scaling": None})
    expected = load_model(saved)
    raw = json.loads((saved / "config.json").read_text())
    del raw["rope_parameters"]
    scaling = {key if name == "rope_type" else name: value for name, value in rope.items() if name != "rope_theta"}
    raw |= {"rope_theta": rope["rope_theta"], "rope_scaling": None if rope["rope_type"] == "default" else scaling}
    (saved / "config.json").write_text(json.dumps(raw))
    loaded = load_model(saved)
    assert loaded.config.rope() == expected.config.rope()
    assert same(loaded, expected)
    save_model(loaded, None, saved)
    assert load_model(saved).config.rope() == expected.config.rope()


def test_a_field_can_be_passed_over(saved: Path) -> None:
    expected = load_model(saved)
    edit_config(saved, {"colour": "red"})
    with refused("--ignore-field colour"):
        load_model(saved)
    assert same(load_model(saved, ignore_fields=["colour"]), expected)


# What is refused

CONFIGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown family": ({"model_type": "lama"}, ["model_type", '"lama"', '"llama"']),
    "no family": ({"model_type": None}, ["model_type"]),
    "wrong architecture": ({"architectures": ["LlamaForFishing"]}, ["LlamaForFishing", "LlamaForCausalLM"]),
    "unknown field": ({"hiden_size": 8}, ['"hiden_size"', '"hidden_size"']),
    "unsupported value": ({"pretraining_tp": 2}, ["pretraining_tp = 2"]),
    "rope type": ({"rope_scaling": {"type": "longrope", "factor": 4.0}, "rope_parameters": None}, ["'longrope'"]),
    "heads": ({"num_key_value_heads": 3, "num_attention_heads": 4}, ["num_attention_heads = 4"]),
    "no layers": ({"num_hidden_layers": 0}, ["num_hidden_layers = 0"]),
    "wrong size": ({"intermediate_size": 128}, ["mlp.gate_proj.weight", "[192, 64]", "[128, 64]"]),
    "another family's field": ({"sliding_window": 4}, ['"sliding_window"', "llama"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_are_refused(saved: Path, name: str) -> None:
    changes, names = CONFIGS[name]
    edit_config(saved, changes)
    with refused(saved, *names):
        load_model(saved)


def index(folder: Path, changes: dict[str, str]) -> None:
    """Turn a single file into one shard with an index, and spoil the index."""
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    names = dict.fromkeys(read_tensors(folder / "shard.safetensors"), "shard.safetensors") | changes
    names = {name: file for name, file in names.items() if file}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def lie(folder: Path, length: int) -> None:
    """Say another length of the header than it has."""
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(length.to_bytes(8, "little") + data[8:])


Spoil = Callable[[Path], object]


def with_tensor(name: str, tensor: Tensor) -> Spoil:
    """The weights with this tensor besides, or in place of theirs."""
    return lambda folder: edit_weights(folder, lambda tensors: tensors.update({name: tensor}))


def with_header(*entries: bytes) -> Spoil:
    """A file with this header and eight bytes of data."""
    text = b"{" + b", ".join(entries) + b"}"
    return lambda folder: (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))


def with_index(changes: dict[str, str], text: str | None = None) -> Spoil:
    """A shard and an index, with these changes or of this text."""
    path = "model.safetensors.index.json"
    return lambda folder: (index(folder, changes), text is not None and (folder / path).write_text(text or ""))


def entry(name: str, kind: str, shape: int, begin: int, end: int) -> bytes:
    told = {"dtype": kind, "shape": [shape], "data_offsets": [begin, end]}
    return f'"{name}": {json.dumps(told)}'.encode()


NORM, WEIGHTS, UP = "model.norm.weight", "model.safetensors", "model.layers.1.mlp.up_proj.weight"
FILES: dict[str, tuple[Spoil, list[str]]] = {
    "missing tensor": (lambda f: edit_weights(f, lambda t: t.pop(NORM)), [NORM]),
    "extra tensor": (with_tensor("score", torch.ones(2)), [WEIGHTS, '"score"', "llama"]),
    "another layer": (with_tensor(UP, torch.ones(2)), [WEIGHTS, UP]),
    "wrong shape": (with_tensor(NORM, torch.ones(65)), [WEIGHTS, NORM, "[65]", "[64]"]),
    "wrong number of axes": (with_tensor(NORM, torch.ones(64, 1)), [NORM, "[64, 1]"]),
    "truncated weights": (lambda f: cut(f / WEIGHTS, (f / WEIGHTS).stat().st_size - 100), [WEIGHTS]),
    "truncated header": (lambda f: cut(f / WEIGHTS, 20), [WEIGHTS]),
    "empty weights": (lambda f: cut(f / WEIGHTS, 0), [WEIGHTS]),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), [WEIGHTS]),
    "a pickle": (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), ["pytorch_model.bin"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json"]),
    "broken config": (lambda f: (f / "config.json").write_text('{\n"a": 1,,\n}'), ["config.json:2"]),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json"]),
    "missing shard": (with_index({NORM: "other.safetensors"}), ["other.safetensors"]),
    "shard outside": (with_index({NORM: "../model.safetensors"}), [NORM, "../model.safetensors"]),
    "shard by its full path": (lambda f: index(f, {NORM: str(f / "shard.safetensors")}), [NORM, "shard.safetensors"]),
    "shard that is a pickle": (with_index({NORM: "shard.bin"}), [NORM, "shard.bin"]),
    "index names too much": (with_index({"ghost": "shard.safetensors"}), ['"ghost"', "shard.safetensors"]),
    "index names too little": (with_index({NORM: ""}), [NORM]),
    "empty shard": (
        lambda f: (index(f, {NORM: "z.safetensors"}), (f / "z.safetensors").write_bytes(b"")),
        ["z.safetensors"],
    ),
    "index that is no JSON": (with_index({}, "{"), ["index.json:1"]),
    "index without a map": (with_index({}, "{}"), ["index.json", '"weight_map"']),
    "integers": (with_tensor(NORM, torch.ones(64, dtype=torch.int8)), [WEIGHTS, NORM, "int8", "bfloat16"]),
    "eight bits": (with_tensor(NORM, torch.ones(64).to(torch.float8_e4m3fn)), [WEIGHTS, NORM, "float8_e4m3fn"]),
    "header longer than the file": (lambda f: lie(f, 1 << 40), [WEIGHTS]),
    "header of no length": (lambda f: lie(f, 0), [WEIGHTS]),
    "header cut short": (lambda f: lie(f, 40), [WEIGHTS]),
    "header that is no JSON": (with_header(b"'a': 1"), [WEIGHTS]),
    "tensor beyond the end": (with_header(entry("a", "F32", 9, 0, 36)), [WEIGHTS]),
    "tensor of another size": (with_header(entry("a", "F32", 9, 0, 8)), [WEIGHTS]),
    "tensors that overlap": (with_header(entry("a", "F32", 2, 0, 8), entry("b", "F32", 1, 4, 8)), [WEIGHTS]),
    "a name twice": (with_header(entry("a", "F32", 1, 0, 4), entry("a", "F32", 1, 4, 8)), [WEIGHTS]),
    "unknown dtype": (with_header(entry("a", "F7", 2, 0, 8)), [WEIGHTS]),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_refused(saved: Path, name: str) -> None:
    spoil, names = FILES[name]
    (saved / "langwright.json").unlink()  # so that the checksums do not speak first
    spoil(saved)
    with refused(saved, *names):
        load_model(saved)


@pytest.mark.parametrize("name", ["wrong shape", "missing shard", "shard outside", "empty weights"])
def test_a_command_ends_with_one_line_and_exit_code_2(saved: Path, name: str, fails: Fails) -> None:
    spoil, names = FILES[name]
    (saved / "langwright.json").unlink()
    raw_bytes().save(saved)
    spoil(saved)
    fails("next", saved, "a", names=tuple(names))


def test_our_record_vouches_for_the_weights(saved: Path) -> None:
    edit_weights(saved, lambda t: t[NORM].mul_(2))
    with refused(saved / WEIGHTS):
        load_model(saved)


def test_a_record_without_blocks_vouches_by_its_sums(saved: Path) -> None:
    record = json.loads((saved / "langwright.json").read_text())
    assert list(record.pop("crc32_blocks")) == ["model.safetensors"]
    (saved / "langwright.json").write_text(json.dumps(record))
    load_model(saved)
    edit_weights(saved, lambda t: t[NORM].mul_(2))
    with refused(saved / WEIGHTS):
        load_model(saved)


def test_a_record_that_names_files_elsewhere(saved: Path) -> None:
    record = json.loads((saved / "langwright.json").read_text())
    record["checksums"]["../model.safetensors"] = ""
    (saved / "langwright.json").write_text(json.dumps(record))
    with refused(saved, "../model.safetensors"):
        load_model(saved)


@pytest.mark.parametrize("record", ['{"format_version": 2}', "{}", "[]"])
def test_a_record_of_another_version(saved: Path, record: str) -> None:
    (saved / "langwright.json").write_text(record)
    with refused(saved / "langwright.json"):
        load_model(saved)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with refused("nowhere"):
        load_model(tmp_path / "nowhere")
