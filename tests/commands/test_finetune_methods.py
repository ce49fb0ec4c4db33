"""Every method of adaptation from the command line: trained, told, and read again."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from langwright.cli import main
from refusals import Fails

TINY = ["--steps", "4", "--batch-size", "4", "--dtype", "float32", "--sample-every", "0"]
METHODS = {
    "ia3": ["--target", "c_attn.k,c_attn.v,mlp.c_proj"],
    "prompt": ["--virtual-tokens", "3", "--prompt-init", "text:One cat"],
    "p-tuning": ["--virtual-tokens", "3", "--prompt-encoder", "lstm", "--encoder-width", "8"],
    "prefix": ["--virtual-tokens", "3", "--projection", "--encoder-width", "8"],
    "bottleneck": ["--bottleneck", "houlsby", "--reduction", "8"],
    "bitfit": [],
    "layernorm": ["--target", "ln_f"],
}


@pytest.fixture(scope="module")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "model"
    shape = ["--family", "gpt2", "--depth", "1", "--context", "32", "--vocabulary", "280", "--split", "0.9"]
    assert main(["pretrain", str(corpus), str(out), *shape, *TINY]) == 0
    return out


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_writes_its_folder_and_is_read_again(
    method: str, model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    out = tmp_path / "adapter"
    assert main(["finetune", str(model), str(corpus), str(out), "--method", method, *METHODS[method], *TINY]) == 0
    told = capsys.readouterr().err
    assert ("virtual token 2 is nearest to" in told) == (method in ("prompt", "p-tuning"))
    record = json.loads((out / "langwright.json").read_text())
    assert 0 < record["trained_parameters"] < record["parameters"] / 2
    name = "adapter.safetensors" if method == "bottleneck" else "adapter_model.safetensors"
    assert load_file(out / name)
    assert (out / "langwright_extra.safetensors").exists() == (method in ("p-tuning", "prefix"))
    written = ["generate", str(model), "--prompt", "One", "--max-new-tokens", "5", "--temperature", "0"]
    assert main([*written, "--adapter", str(out)]) in (0, None)
    assert main(["evaluate", str(model), "--text", str(corpus), "--adapter", str(out)]) in (0, None)
    if method == "prompt":
        fails("show", model, "--adapter", out, "--attention", "One cat", names="virtual tokens")


def test_layers_unfreeze_from_the_top(model: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["finetune", str(model), str(corpus), str(out), "--unfreeze-every", "100 steps", *TINY]) == 0
    before, after = load_file(model / "model.safetensors"), load_file(out / "model.safetensors")
    same = {name for name in before if (before[name] == after[name]).all()}
    assert same == {"transformer.wte.weight", "transformer.wpe.weight"}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--method", "head"], "token table"),
        (["--method", "prompt", "--virtual-tokens", "32"], "--virtual-tokens 32"),
        (["--method", "prompt", "--virtual-tokens", "8", "--context", "30"], ("virtual tokens", "8")),
        (["--method", "prompt", "--prompt-init", "zero"], "--prompt-init zero"),
        (["--method", "ia3", "--virtual-tokens", "3"], "--virtual-tokens"),
        (["--method", "ia3", "--target", "w_proj"], '"w_proj"'),
        (["--method", "lora", "--target", "(q_proj"], '"(q_proj"'),
        (["--method", "lora", "--rank", "65"], ("--rank 65", "transformer.h.0.attn.c_attn", "192 x 64")),
        (["--method", "lora", "--alpha", "nan"], "--alpha nan"),
        (["--method", "lora", "--optimizer", "muon"], "adamw"),
        (["--method", "ia3", "--unfreeze-every", "3 steps"], ("--unfreeze-every", "--method full")),
    ],
)
def test_bad_wishes_are_answered_in_one_line(
    words: list[str], names: str | tuple[str, ...], model: Path, corpus: Path, tmp_path: Path, fails: Fails
) -> None:
    fails("finetune", model, corpus, tmp_path / "out", *words, *TINY, names=names)
    assert not (tmp_path / "out").exists()
