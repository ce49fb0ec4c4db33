"""langwright prune: what it writes, what it tells, and what opens it."""

import json
from pathlib import Path

import pytest

from langwright.cli import main
from refusals import Fails


@pytest.mark.parametrize(
    "words", [["--method", "magnitude"], ["--pattern", "2:4"], ["--method", "sparsegpt", "--sparsity", "0.3"]]
)
def test_weights_are_left_out(
    words: list[str], corpus: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sparse"
    more = [] if "magnitude" in words else ["--calibrate", str(corpus), "--windows", "4"]
    assert main(["prune", str(model), str(out), *words, *more, "--text", str(corpus), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["zeros"] == pytest.approx(0.3 if "0.3" in words else 0.5, abs=0.02)
    assert told["perplexity_after"] < 2 * told["perplexity_before"]
    assert json.loads((out / "langwright.json").read_text())["pruned"]["sparsity"] == (0.3 if "0.3" in words else 0.5)
    assert main(["evaluate", str(out), "--text", str(corpus), "--dtype", "float32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["perplexity_per_token"] == pytest.approx(told["perplexity_after"])


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--sparsity", "1.5"], "--sparsity 1.5"),
        (["--pattern", "4:2"], "--pattern 4:2"),
        (["--pattern", "2:7"], "7"),
        (["--heads", "99"], "--heads 99"),
        (["--layers", "99"], "--layers 99"),
        (["--layers", "1", "--heads", "1"], ("--layers", "--heads")),
        (["--method", "guess"], "guess"),
        (["--method", "magnitude", "--heads", "1"], ("--method magnitude", "--heads")),
        (["--method", "magnitude"], "--calibrate"),
        (["--calibrate", "nowhere.txt"], "nowhere.txt"),
        (["--context", "8"], ("--context", "--text")),
    ],
)
def test_bad_input_ends_in_one_line(
    more: list[str], names: str | tuple[str, ...], corpus: Path, model: Path, tmp_path: Path, fails: Fails
) -> None:
    calibrated = [] if "--calibrate" in more else ["--calibrate", corpus, "--windows", "2"]
    fails("prune", model, tmp_path / "small", *more, *calibrated, names=names)
    assert not (tmp_path / "small").exists()
