"""Adapters as a user has them: trained, put on a model, merged; and bad input."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import langwright
from langwright.cli import main
from refusals import Fails

TINY = ["--depth", "1", "--context", "32", "--batch-size", "4", "--vocabulary", "300", "--dtype", "float32"]
LORA = ["--method", "lora", "--rank", "4", "--target", "q_proj,v_proj,up_proj", "--dropout", "0.1", "--dora"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, and an adapter of it that new text has trained."""
    made = tmp_path_factory.mktemp("adapters")
    rng = random.Random(0)
    (made / "old.txt").write_text("".join(f"One cat ate {rng.choice('abc')} tuna.\n" for _ in range(900)))
    (made / "new.txt").write_text("".join(f"Seven weird humans met {n} tunas in the rain.\n" for n in range(200)))
    assert main(["pretrain", str(made / "old.txt"), str(made / "base"), "--split", "0.9", "--steps", "40", *TINY]) == 0
    assert main(tuned(made, "adapter", "--learning-rate", "0.01")) == 0
    return made


def tuned(folder: Path, out: str, *more: str) -> list[str]:
    paths = [str(folder / name) for name in ("base", "new.txt", out)]
    options = ["--steps", "24", "--save-every", "3", "--log-every", "1", "--dtype", "float32"]
    return ["finetune", *paths, *LORA, *options, *more]


def test_an_adapter_folder_is_small_and_tells_what_was_forgotten(folder: Path) -> None:
    record = json.loads((folder / "adapter" / "langwright.json").read_text())
    assert record["forgetting"]["new"]["after"] < record["forgetting"]["new"]["before"] - 0.1
    assert record["trained_parameters"] == sum(
        t.numel() for t in load_file(folder / "adapter" / "adapter_model.safetensors").values()
    )
    assert not (folder / "adapter" / "model.safetensors").exists()
    held = load_file(next((folder / "adapter" / "checkpoints").iterdir()) / "masters.safetensors")
    assert held
    assert all(".adapter." in name for name in held)
    assert (folder / "adapter" / "report.html").exists()


def test_the_adapter_answers_in_every_verb_and_as_a_merged_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter, merged = (str(folder / name) for name in ("base", "adapter", "merged"))
    assert main(["merge", base, adapter, merged, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest_logit_change"] < 1e-4
    measured = []
    for where in ([base], [base, "--adapter", adapter], [merged]):
        assert main(["evaluate", *where, "--text", str(folder / "new.txt"), "--dtype", "float32", "--json"]) == 0
        measured.append(json.loads(capsys.readouterr().out)["loss_nats_per_token"])
    assert measured[1] < measured[0] - 0.1
    assert abs(measured[2] - measured[1]) < 1e-5
    assert main(["next", base, "Seven weird", "--adapter", adapter, "--json"]) == 0
    assert main(["generate", base, "--prompt", "Seven", "--adapter", adapter, "--max-new-tokens", "3"]) == 0
    page = str(folder / "a.html")
    assert main(["show", base, "--attention", "Seven weird", "--adapter", adapter, "--out", page]) == 0
    ids = torch.tensor([langwright.load_tokenizer(base).encode("Seven weird humans")])
    with torch.no_grad():
        change = langwright.load_model(base, adapter=adapter)(ids) - langwright.load_model(merged)(ids)
    assert change.abs().max() < 1e-4


BAD = {
    "unknown target": (["finetune", "base", "new.txt", "x", "--method", "lora", "--target", "q_porj"], "q_proj"),
    "rank without lora": (["finetune", "base", "new.txt", "x", "--rank", "4"], ("--rank", "--method lora")),
    "no adapter": (["generate", "base", "--adapter", "base"], "adapter_config.json"),
    "another base": (["generate", "merged", "--adapter", "adapter"], ("/base", "/merged")),
    "merged onto itself": (["merge", "base", "adapter", "base"], "/base"),
    "an adapter as the model": (["generate", "adapter", "--prompt", "a"], "/adapter"),
    "merged into a file": (["merge", "base", "adapter", "new.txt"], "new.txt"),
    "compressed into a file": (["compress", "base", "new.txt", "--to", "nf4"], "new.txt"),
    "tuned into a file": (["finetune", "base", "new.txt", "new.txt"], "new.txt"),
    "changed method": (["finetune", "base", "new.txt", "adapter", "--method", "lora"], "dora"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, folder: Path, fails: Fails) -> None:
    words, names = BAD[name]
    if not (folder / "merged").exists():
        assert main(["merge", str(folder / "base"), str(folder / "adapter"), str(folder / "merged")]) == 0
    known = {path.name for path in folder.iterdir()} | {"x"}
    fails(*(folder / word if word in known else word for word in words), names=names)
    assert not (folder / "x").exists()
