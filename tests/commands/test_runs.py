"""What a run decides by itself, it says and keeps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from langwright.cli import main
from langwright.planning import machine
from langwright.viewing.live import LiveView

TINY = ["--tokenizer", "bytes", "--depth", "1", "--context", "16", "--batch-size", "8", "--dtype", "float32"]


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "langwright.json").read_text())


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """One document of 100 characters: 95 train, which are windows of 16 six times."""
    path = tmp_path / "book.txt"
    path.write_text("One cat. " * 11 + "!")
    return path


def test_one_file_of_text_is_split_in_order_and_that_is_said(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["pretrain", str(book), str(out), *TINY, "--batch-size", "4", "--steps", "1"]) == 0
    assert "0.95" in capsys.readouterr().err
    assert record(out)["corpus"]["split"] == "0.95"
    assert record(out)["held_out"]["bytes"] == 5
    copy = book.rename(tmp_path / "copy.txt")  # a process says it once of a text
    assert main(["evaluate", str(out), "--text", str(copy), "--split", "5%", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["bytes"] == 5
    assert "0.95" in told.err


@pytest.mark.parametrize(("epochs", "steps"), [("1 epochs", 2), ("2 epochs", 3), ("0.1 epochs", 1)])
def test_epochs_are_rounded_up_and_that_is_said(
    epochs: str, steps: int, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["pretrain", str(book), str(out), *TINY, "--batch-size", "4", "--steps", epochs]) == 0
    assert record(out)["steps"] == steps
    assert ("epochs of" in capsys.readouterr().err) == (epochs != "2 epochs")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_folder_is_removed_ends(
    replaced: bool, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, shown = tmp_path / "out", []

    def remove(view: LiveView, row: dict[str, Any]) -> None:
        shown.append(row)
        shutil.rmtree(out)
        if replaced:
            out.mkdir()

    monkeypatch.setattr(LiveView, "row", remove)
    assert main(["pretrain", str(book), str(out), *TINY, "--batch-size", "4", "--steps", "9", "--log-every", "1"]) == 2
    assert len(shown) == 1
    assert str(out) in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists() or not list(out.iterdir())


def test_the_dtype_that_auto_chose_is_kept(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else the machine is busy with at later starts; the model folder keeps it without its checkpoints too."""
    out, wanted = tmp_path / "out", [*TINY[:-2], "--batch-size", "4", "--dtype", "auto"]

    def slow(dtype: torch.dtype) -> None:
        monkeypatch.setattr(machine, "gemm_rate", lambda device, other, repeats=5: 1.0 if other == dtype else 2.0)

    def losses() -> float:
        assert main(["evaluate", str(out), "--text", str(book), "--json"]) == 0
        return float(json.loads(capsys.readouterr().out)["loss_nats_per_token"])

    slow(torch.bfloat16)
    assert main(["pretrain", str(book), str(out), *wanted, "--steps", "1"]) == 0
    capsys.readouterr()
    before = losses()
    slow(torch.float32)
    assert main(["pretrain", str(book), str(out), *wanted, "--steps", "2", "--extend"]) == 0
    assert record(out)["dtype"] == "float32"
    slow(torch.bfloat16)
    capsys.readouterr()
    after = losses()
    shutil.rmtree(out / "checkpoints")
    slow(torch.float32)
    assert losses() == after != before


@pytest.mark.parametrize("content", ["[]", '{"steps": 1}'])
def test_a_record_of_something_else_is_refused(
    content: str, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["pretrain", str(book), str(out), *TINY, "--batch-size", "4", "--steps", "1"]
    assert main(command) == 0
    (out / "langwright.json").write_text(content)
    assert main(command) == 2
    assert str(out / "langwright.json") in capsys.readouterr().err.splitlines()[-1]
