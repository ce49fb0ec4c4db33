"""The commands on models of the Hub, in processes of their own that ask a Hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import Hub, connect, serve, use
from langwright import load_model
from langwright.cli import main
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.opening import load_tokenizer
from langwright.text.training import raw_bytes
from refusals import Fails

NAME = "owner/tiny"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve(Hub()) as hub:
        yield hub


def model(folder: Path, seed: int) -> dict[str, bytes]:
    """The files of a tiny model."""
    tokenizer = raw_bytes()
    save_model(new_model("llama", by_depth("llama", 1, tokenizer.vocab_size, 32, dropout=0.0), seed), tokenizer, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a user of that Hub, empty."""
    hub.push(NAME, model(tmp_path / "first", 0))
    use(hub, tmp_path / "cache", monkeypatch)
    return tmp_path / "cache"


def test_a_name_wherever_a_folder_is_taken(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.branches[NAME]["main"]
    (tmp_path / "text.txt").write_text("ab ba " * 40)
    page = tmp_path / "page.html"
    verbs = [
        ["generate", f"hf:{NAME}", "--prompt", "ab", "--max-new-tokens", "3", "--json"],
        ["next", f"hf:{NAME}", "ab"],
        ["evaluate", f"hf:{NAME}@{commit}", "--text", str(tmp_path / "text.txt")],
        ["show", f"hf:{NAME}", "--attention", "ab ba", "--out", str(page)],
    ]
    assert main(verbs[0]) == 0
    told = capsys.readouterr()
    assert len(json.loads(told.out)["tokens"]) == 3
    assert told.err.count("is revision") == 1  # config, tokenizer and weights of one commit, said once
    connect(False, monkeypatch)
    seen = len(hub.seen)
    assert [main(verb) for verb in verbs] == [0, 0, 0, 0]
    assert len(hub.seen) == seen
    assert f"Attention of hf:{NAME}" in page.read_text()
    assert load_model(f"hf:{NAME}@{commit}").config == load_model(tmp_path / "first").config
    assert load_tokenizer(f"hf:{NAME}").fingerprint() == raw_bytes().fingerprint()


def test_a_process_of_its_own(hub: Hub, cache: Path, tmp_path: Path) -> None:
    """The environment variables of the Hub's own library are those that count."""
    home = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "langwright", "next", f"hf:{NAME}", "ab"]
    done = subprocess.run(command, env={**home, "NO_PROXY": "127.0.0.1"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"main is revision {hub.branches[NAME]['main']}" in done.stderr
    assert list((tmp_path / "home/hub").glob("models--owner--tiny/snapshots/*/model.safetensors"))


def test_a_fault_is_one_line_and_exit_code_2(cache: Path, fails: Fails) -> None:
    fails("next", "hf:owner/nothing", "ab", names="hf:owner/nothing")


def test_a_run_keeps_the_revision_it_began_with(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    fails: Fails,
) -> None:  # fmt: skip
    (tmp_path / "text.txt").write_text("one cat saw a dog. " * 300)
    out = tmp_path / "out"
    options = ["--batch-size", "2", "--dtype", "float32", "--sample-every", "0", "--context", "16", "--split", "0.1"]
    rest = [str(tmp_path / "text.txt"), str(out), *options]
    began = hub.branches[NAME]["main"]
    assert main(["finetune", f"hf:{NAME}", *rest, "--steps", "2"]) == 0
    record = json.loads((out / "langwright.json").read_text())
    assert (record["base_folder"], record["base_revision"]) == (f"hf:{NAME}@main", began)
    assert hub.push(NAME, model(tmp_path / "second", 1)) != began
    connect(True, monkeypatch)
    capsys.readouterr()
    assert main(["finetune", f"hf:{NAME}", *rest, "--steps", "4", "--extend"]) == 0
    assert f"began with revision {began}" in capsys.readouterr().err
    after = json.loads((out / "langwright.json").read_text())
    assert (after["steps"], after["base_revision"]) == (4, began)
    connect(True, monkeypatch)
    now = f"hf:{NAME}@{hub.branches[NAME]['main']}"
    fails("finetune", now, *rest, "--steps", "6", "--extend", names=(f"hf:{NAME}@main", now))
    assert json.loads((out / "checkpoints/base.json").read_text())["base_revision"] == began
    rest[1] = str(tmp_path / "refused")
    fails("finetune", f"hf:{NAME}", *rest, "--method", "lora", "--target", "odd", names="odd")
    assert not (tmp_path / "refused").exists()
