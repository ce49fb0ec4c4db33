"""langwright export: what it writes, what it tells, and that every command takes a GGUF file."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers

from langwright import load_model, load_tokenizer
from llama_cpp import LlamaCpp
from refusals import Fails, Prints


def test_a_file_for_llama_cpp_is_a_model_for_every_command(
    corpus: Path, model: Path, tmp_path: Path, prints: Prints
) -> None:
    told = json.loads(prints("export", model, tmp_path / "out", "--format", "gguf", "--type", "f32", "--json"))
    path = tmp_path / "out/model.gguf"
    assert told["out"] == str(path)
    assert told["bytes"] == 4 * told["weights"] == 4 * sum(p.numel() for p in load_model(model).parameters())
    words = ["--prompt", "the", "--max-new-tokens", "8", "--temperature", "0", "--json"]
    written = json.loads(prints("generate", model, *words))
    for named in (path, path.parent):  # a folder that holds one file stands for it
        assert json.loads(prints("generate", named, *words)) == written
    tokenizer = load_tokenizer(path)
    ids = [*tokenizer.prefix, *tokenizer.encode("the")]
    assert LlamaCpp(path).write(ids, 8).ids == tokenizer.encode(written["text"])
    measured = [json.loads(prints("evaluate", m, "--text", corpus, "--json")) for m in (model, path)]
    assert measured[0] == measured[1]
    prints("compress", path, tmp_path / "small", "--to", "int8")
    assert json.loads(prints("generate", tmp_path / "small", *words))["text"]
    prints("finetune", path, corpus, tmp_path / "tuned", "--method", "lora", "--steps", "1")
    prints("generate", path, "--adapter", tmp_path / "tuned", *words)
    prints("merge", path, tmp_path / "tuned", tmp_path / "merged")
    prints("generate", tmp_path / "merged", *words)


def test_what_was_rounded_becomes_a_plain_folder(model: Path, tmp_path: Path, prints: Prints) -> None:
    assert "q8_0" in prints("export", model, tmp_path / "gguf", "--format", "gguf", "--type", "q8_0")
    prints("compress", model, tmp_path / "int8", "--to", "int8")
    for source in (tmp_path / "gguf", tmp_path / "int8"):
        out = tmp_path / f"plain-{source.name}"
        prints("export", source, out, "--format", "folder")
        theirs, ours = transformers.AutoModelForCausalLM.from_pretrained(out), load_model(source)
        ids = transformers.AutoTokenizer.from_pretrained(out)("the cat", return_tensors="pt").input_ids
        assert ids[0].tolist() == [*load_tokenizer(source).prefix, *load_tokenizer(source).encode("the cat")]
        with torch.no_grad():
            assert float((theirs(ids).logits - ours(ids)).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--format", "gguf", "--type", "q3"], ("--type", "q3")),
        (["--format", "folder", "--type", "q8_0"], ("--type", "--format")),
        (["--format", "onnx"], ("--format", "onnx")),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: Sequence[str], names: Sequence[str], model: Path, tmp_path: Path, fails: Fails
) -> None:
    fails("export", model, tmp_path / "out", *arguments, names=names)
    assert not (tmp_path / "out").exists()


def test_paths_that_are_no_models(model: Path, tmp_path: Path, fails: Fails) -> None:
    fails("export", model, model, "--format", "gguf", names=str(model))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and no more")
    fails("generate", broken, "--prompt", "a", names=str(broken))
    for name in ("a", "b"):
        (tmp_path / f"two-{name}.gguf").touch()
    fails("generate", tmp_path, "--prompt", "a", names=str(tmp_path))
