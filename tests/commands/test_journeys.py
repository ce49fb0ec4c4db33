"""The commands as a user runs them: in processes of their own, killed and resumed, with good and bad input."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from langwright.cli import main
from processes import survives_kills
from refusals import Fails, Prints

TINY = ["--depth", "1", "--context", "32", "--batch-size", "4", "--vocabulary", "300", "--dtype", "float32"]
QUIET = ["--log-every", "1", "--save-every", "3", "--evaluate-every", "5", "--sample-every", "0"]


def command(corpus: Path, out: Path, *more: str) -> list[str]:
    return ["pretrain", str(corpus), str(out), "--steps", "16", "--dropout", "0.1", *TINY, *QUIET, *more]


def rows(out: Path) -> list[dict[str, float]]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_killed_three_times_a_run_ends_bit_for_bit_the_same(corpus: Path, tmp_path: Path) -> None:
    steps = sorted(random.Random(5).sample(range(4, 15), 3))
    survives_kills(lambda name: command(corpus, tmp_path / name), tmp_path, steps)
    assert [row["step"] for row in rows(tmp_path / "killed") if "loss" in row] == list(range(1, 17))


def test_compiled_with_muon_and_profiled_a_killed_run_ends_bit_for_bit_the_same(corpus: Path, tmp_path: Path) -> None:
    """The profiler watches one of the two, and changes nothing."""
    made = ["--compile", "--optimizer", "muon", "--dtype", "bfloat16"]
    survives_kills(lambda name: command(corpus, tmp_path / name, *made), tmp_path, [8], more=["--profile"])
    profile = json.loads((tmp_path / "whole" / "langwright.json").read_text())["profile"]
    assert profile["steps"] == 5
    assert {"products", "loss", "optimizer", "compiled kernels"} <= profile["shares"].keys()
    assert "Where the time goes" in (tmp_path / "whole" / "report.html").read_text()
    assert "Where the time goes" not in (tmp_path / "killed" / "report.html").read_text()


def test_a_run_keeps_others_out_and_saves_at_sigterm(corpus: Path, tmp_path: Path, fails: Fails) -> None:
    out = tmp_path / "out"
    arguments = [sys.executable, "-m", "langwright", *command(corpus, out, "--steps", "100000")]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not any(row["step"] >= 5 for row in rows(out)):
        assert process.poll() is None
        time.sleep(0.01)
    fails("pretrain", corpus, out, "--steps", "5", *TINY, names=str(process.pid))
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "run the same command again" in told
    assert "Traceback" not in told
    last = max(row["step"] for row in rows(out))
    assert (out / f"checkpoints/step-{int(last):08d}").is_dir()


def test_a_finished_run_says_so_and_can_be_extended(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    out = tmp_path / "model"
    again = ["pretrain", str(corpus), str(out), *TINY, *QUIET]
    assert main([*again, "--steps", "6"]) == 0
    before = (out / "model.safetensors").read_bytes()
    capsys.readouterr()
    lines = rows(out)
    assert main([*again, "--steps", "6"]) == 0
    assert "finished already" in capsys.readouterr().err
    assert rows(out) == lines
    assert (out / "model.safetensors").read_bytes() == before
    fails(*again, "--steps", "9", names=("steps", "'6'", "'9'"))
    assert main([*again, "--steps", "9", "--extend"]) == 0
    assert (out / "model.safetensors").read_bytes() != before
    assert [row["step"] for row in rows(out) if "loss" in row] == list(range(1, 10))


def test_a_budget_can_be_extended(corpus: Path, tmp_path: Path) -> None:
    again = ["pretrain", str(corpus), str(tmp_path), *TINY, *QUIET]
    assert main([*again, "--budget", "4s"]) == 0
    first = max(row["step"] for row in rows(tmp_path))
    assert main([*again, "--budget", "60s"]) == 2
    assert main([*again, "--budget", "6s", "--extend"]) == 0
    assert max(row["step"] for row in rows(tmp_path)) > first


def test_killed_before_the_model_is_written_an_extension_ends_with_the_new_model(corpus: Path, tmp_path: Path) -> None:
    again = ["pretrain", str(corpus), str(tmp_path), *TINY, *QUIET]
    assert main([*again, "--steps", "6"]) == 0
    record = (tmp_path / "langwright.json").read_bytes()
    weights = (tmp_path / "model.safetensors").read_bytes()
    assert main([*again, "--steps", "9", "--extend"]) == 0
    new = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "langwright.json").write_bytes(record)  # as if killed after the last checkpoint
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert main([*again, "--steps", "9", "--extend"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() == new


def test_a_run_that_came_apart_writes_no_model(corpus: Path, tmp_path: Path, fails: Fails) -> None:
    options = ["--steps", "12", *TINY, *QUIET, "--learning-rate", "1e9"]
    for _ in range(2):
        fails("pretrain", corpus, tmp_path / "out", *options, names="--learning-rate")
        assert not (tmp_path / "out/model.safetensors").exists()


def test_what_is_refused_is_not_touched(model: Path, corpus: Path, tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    fails("pretrain", corpus, tmp_path, "--steps", "2", *TINY, names=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_changed_tokenizer_is_refused(corpus: Path, tmp_path: Path, fails: Fails) -> None:
    again = ["pretrain", str(corpus), str(tmp_path), "--steps", "3", *TINY]
    assert main(again) == 0
    fails(*again, "--tokenizer", "bytes", names=("tokenizer", "'bpe'", "'bytes'"))
    fails(*again, "--vocabulary", "280", names=("vocabulary", "280"))  # it says more than the tokenizer it changed
    fails("finetune", tmp_path, corpus, "", "--steps", "3", names="OUT")
    fails("pretrain", corpus, "x" * 300, "--steps", "3", *TINY, names="x" * 300)


def test_what_changed_under_a_run_is_told_by_its_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, out = tmp_path / "one.txt", tmp_path / "other.txt", tmp_path / "out"
    one.write_text("One cat ate a tuna.\n" * 300)
    other.write_text("One weird cat ate a chicken.\n" * 300)
    shutil.copytree(model, tmp_path / "base", ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    options = ["--steps", "2", "--batch-size", "4", "--dtype", "float32", "--sample-every", "0"]

    def tune(base: Path, text: Path, code: int = 2) -> str:
        assert main(["finetune", str(base), str(text), str(out), *options]) == code
        return capsys.readouterr().err.splitlines()[-1]

    tune(model, one, 0)
    assert re.search(rf"began with corpus {one} \(contents \w+\), not {other} \(contents", tune(model, other))
    assert "is finished already" in tune(tmp_path / "base", one, 0)  # the same weights under another name
    (tmp_path / "base/langwright.json").unlink()
    changed = {name: tensor + 1 for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(changed, tmp_path / "base/model.safetensors", {"format": "pt"})
    assert re.search(rf"began with base {model} .*, not {tmp_path}/base ", tune(tmp_path / "base", one))
    one.write_text("One cat ate a human.\n" * 300)
    assert re.search(rf"began with corpus {one} .*, not {one} ", tune(model, one))
    for state in (out / "checkpoints").glob("step-*/state.json"):
        told = json.loads(state.read_text())
        del told["names"], told["checksum"]  # as older versions wrote it
        state.write_text(json.dumps(told))
    assert re.search(rf"began with corpus another .*, not {one} ", tune(model, one))


def test_a_model_learns_and_its_numbers_agree(model: Path, corpus: Path, prints: Prints) -> None:
    record = json.loads((model / "langwright.json").read_text())
    losses = [row["loss"] for row in rows(model) if "loss" in row]
    assert losses[-1] < losses[0] - 1
    asked = ["evaluate", model, "--text", corpus, "--split", "5%", "--json", "--dtype", "float32"]
    measured, eight = (json.loads(prints(*asked, "--cache", cache)) for cache in ("full", "int8"))
    assert 0 < abs(eight["loss_nats_per_token"] - measured["loss_nats_per_token"]) < 0.01
    assert measured["loss_nats_per_token"] == pytest.approx(record["held_out"]["loss_nats_per_token"], rel=1e-5)
    assert measured["tokens"] == record["held_out"]["tokens"]
    assert (model / "report.html").read_text().count("<svg") >= 1


def test_generate_and_next(model: Path, prints: Prints) -> None:
    draw = ["--max-new-tokens", "8", "--seed", "3"]
    streamed = prints("generate", model, "--prompt", "One cat", *draw)
    assert streamed.startswith("One cat")
    arguments = ["generate", model, "--prompt", "One cat", "--prompt", "One", *draw, "--json"]
    beside = prints(*arguments)
    assert "One cat" + json.loads(beside.splitlines()[0])["text"] == streamed.rstrip("\n")
    assert prints(*arguments, "--cache", "none") == beside
    assert prints(*arguments, "--cache", "int8").count('"text"') == 2
    found = json.loads(prints("next", model, "One cat", "--json", "--top", "300"))
    assert sum(entry["probability"] for entry in found) == pytest.approx(1, abs=1e-4)
    assert len(prints("next", model, "One cat", "--top", "3").splitlines()) == 3


def test_show_writes_a_page(model: Path, tmp_path: Path) -> None:
    assert main(["show", str(model), "--attention", "One cat ate", "--out", str(tmp_path / "a.html")]) == 0
    shown = (tmp_path / "a.html").read_text()
    headings = {"Self-attention: all heads", "bias from layer 0", "layer 0", "Self-attention: one layer"}
    assert headings <= set(re.findall(r">([^<>]+)</h[23]>", shown))


def test_finetune_measures_what_is_learnt_and_forgotten(model: Path, corpus: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.txt"
    new.write_text("".join(f"Seven weird humans met {n} tunas in the rain.\n" for n in range(200)))
    out = tmp_path / "tuned"
    options = ["--steps", "25", "--learning-rate", "0.003", "--dtype", "float32"]
    arguments = ["finetune", str(model), str(new), str(out), *options]
    assert main(arguments) == 0
    forgetting = json.loads((out / "langwright.json").read_text())["forgetting"]
    assert forgetting["new"]["after"] < forgetting["new"]["before"]
    assert forgetting["old"]["after"] > forgetting["old"]["before"]
    before = (out / "langwright.json").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (out / "langwright.json").stat().st_mtime_ns == before


BAD = {
    "no such corpus": (["pretrain", "no-such-corpus", "OUT"], "no-such-corpus"),
    "too little text": (["pretrain", "SHORT", "OUT", "--split", "0.5", "--vocabulary", "260"], ("256", "16")),
    "unknown family": (["pretrain", "CORPUS", "OUT", "--family", "lama"], '"lama"'),
    "unknown preset": (["pretrain", "CORPUS", "OUT", "--preset", "gpt2-medum"], "gpt2-medium"),
    "unknown option": (["pretrain", "CORPUS", "OUT", "--dept", "3"], "--depth"),
    "two lengths": (["pretrain", "CORPUS", "OUT", "--steps", "5", "--budget", "9s"], ("steps", "budget")),
    "shape twice": (["pretrain", "CORPUS", "OUT", "--preset", "gpt2", "--depth", "2"], "--preset"),
    "too large": (["pretrain", "CORPUS", "OUT", "--depth", "1000"], "memory"),
    "far too large": (["demo", "--out", "OUT", "--depth", "99999999999999999999"], "--depth 99999999999999999999"),
    "a file": (["pretrain", "CORPUS", "SHORT"], "short.txt"),
    "large seed": (["generate", "MODEL", "--seed", "99999999999999999999"], "--seed 99999999999999999999"),
    "no budget left": (["pretrain", "CORPUS", "OUT", "--budget", "0.01s", *TINY], "budget"),
    "bad tokenizer": (["pretrain", "CORPUS", "OUT", "--tokenizer", "wordpieces"], "wordpieces"),
    "bad device": (["pretrain", "CORPUS", "OUT", "--device", "cuda:7"], "--device cuda:7"),
    "foreign folder": (["pretrain", "CORPUS", "MODEL_COPY"], "/copy"),
    "replaced weights": (["generate", "REPLACED"], "replaced/model.safetensors"),
    "no model": (["generate", "nowhere"], "nowhere"),
    "long prompt": (["generate", "MODEL", "--prompt", "word " * 60], "context"),
    "endless beams": (["generate", "MODEL", "--beams", "99999999999999999999"], "--beams 99999999999999999999"),
    "page onto a folder": (["show", "MODEL", "--attention", "a", "--out", "MODEL"], "model: is a folder"),
    "empty name": (["prepare", "", "OUT.jsonl"], "no such file"),
    "bad top-p": (["generate", "MODEL", "--top-p", "1.5"], "--top-p 1.5"),
    "empty stop": (["generate", "MODEL", "--stop", ""], "stop"),
    "wide window": (["generate", "MODEL", "--window", "9999"], ("--window 9999", "--sinks 4")),
    "bad layer": (["show", "MODEL", "--attention", "a", "--layer", "9"], "layer"),
    "bad temperature": (["next", "MODEL", "a", "--temperature", "0"], "--temperature 0"),
    "no text": (["evaluate", "MODEL", "--text", "EMPTY"], "empty.txt"),
    "long context": (["evaluate", "MODEL", "--text", "CORPUS", "--context", "64"], "--context 64"),
    "not text": (["evaluate", "MODEL", "--text", "BINARY"], "binary.txt"),
    "onto itself": (["finetune", "MODEL", "CORPUS", "MODEL"], "/model"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, model: Path, corpus: Path, tmp_path: Path, fails: Fails
) -> None:
    (tmp_path / "short.txt").write_text("One cat.")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"abc\xff\xfe")
    for copy in ("copy", "replaced"):
        shutil.copytree(model, tmp_path / copy, ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    with open(tmp_path / "replaced/model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    places = {
        "SHORT": tmp_path / "short.txt", "EMPTY": tmp_path / "empty.txt", "BINARY": tmp_path / "binary.txt",
        "CORPUS": corpus, "MODEL": model, "MODEL_COPY": tmp_path / "copy", "REPLACED": tmp_path / "replaced",
        "OUT": tmp_path / "out",
    }  # fmt: skip
    arguments, names = BAD[name]
    fails(*(places.get(word, word) for word in arguments), names=names)
    assert not (tmp_path / "out").exists()
