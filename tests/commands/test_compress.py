"""langwright compress: what it writes, what it tells, and what opens it."""

import json
from pathlib import Path

import pytest

from langwright import load_model
from langwright.cli import main
from refusals import Fails


@pytest.mark.parametrize("to", ["int8", "w8a8", "int4", "nf4", "fp4"])
def test_a_model_becomes_smaller(
    to: str, corpus: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    assert main(["compress", str(model), str(out), "--to", to, "--text", str(corpus), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bits_per_weight"] < (8.6 if "8" in to else 5)
    assert told["bytes_after"] < 0.8 * told["bytes_before"]
    assert 0 < told["largest_logit_change"] < 2
    assert abs(told["perplexity_after"] / told["perplexity_before"] - 1) < (0.01 if "8" in to else 0.2)
    before, after = (sum(path.stat().st_size for path in f.glob("*.safetensors")) for f in (model, out))
    assert before - after == pytest.approx(told["bytes_before"] - told["bytes_after"], rel=0.05)
    assert main(["evaluate", str(out), "--text", str(corpus), "--dtype", "float32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["perplexity_per_token"] == pytest.approx(told["perplexity_after"])


@pytest.mark.parametrize(("to", "method"), [("int4", "gptq"), ("int3", "awq"), ("w8a8", "smoothquant")])
def test_by_what_a_text_says(
    to: str, method: str, corpus: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", model, tmp_path / "small", "--to", to, "--method", method, "--calibrate", corpus]
    assert main([*map(str, words), "--windows", "4", "--text", str(corpus), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert abs(told["perplexity_after"] / told["perplexity_before"] - 1) < 0.2
    record = json.loads((tmp_path / "small" / "langwright.json").read_text())["compressed"]
    assert (record["to"], record["method"]) == (to, method)


@pytest.mark.parametrize("to", ["bfloat16", "float16"])
def test_other_floats(to: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(model), str(tmp_path / "small"), "--to", to, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes_after"] * 2 == told["bytes_before"]
    assert str(next(load_model(tmp_path / "small").parameters()).dtype) == f"torch.{to}"


def test_words_for_people(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(model), str(tmp_path / "small"), "--to", "nf4"]) == 0
    out, err = capsys.readouterr()
    assert "weights in nf4, 4." in out
    assert "largest relative error of a tensor: 0." in out
    assert "wrote" in err


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--to", "nf5"], "nf5"),
        (["--to", "nf4", "--text", "nowhere.txt"], "nowhere.txt"),
        (["--to", "nf4", "--context", "8"], ("--context", "--text")),
        (["--to", "nf4", "--calibrate", __file__], ("--calibrate", "--method")),
        (["--to", "nf4", "--windows", "5"], ("--windows", "--method")),
        (["--to", "nf4", "--group-size", "32"], ("--group-size", "int4")),
        (["--to", "int4", "--group-size", "6"], "--group-size 6"),
        (["--to", "int4", "--method", "smoothquant"], ("--method smoothquant", "w8a8")),
        (["--to", "float16", "--method", "gptq"], ("--method gptq", "float16")),
        (["--to", "int4", "--method", "gptq", "--calibrate", "nowhere.txt"], "nowhere.txt"),
        (["--to", "int4", "--method", "gptq", "--calibrate", __file__, "--window", "9999"], "--window 9999"),
        (["--to", "int4", "--method", "gptq", "--calibrate", __file__, "--windows", "0"], "--windows 0"),
        (["--to", "nf4", "--text", __file__, "--context", "9999"], "--context 9999"),
        (["--to", "nf4", "--text", __file__, "--context", "0"], "--context 0"),
    ],
)
def test_bad_input_ends_in_one_line(
    more: list[str], names: str | tuple[str, ...], model: Path, tmp_path: Path, fails: Fails
) -> None:
    fails("compress", model, tmp_path / "small", *more, names=names)
    assert not (tmp_path / "small").exists()


def test_folders_that_cannot_be(model: Path, tmp_path: Path, fails: Fails) -> None:
    fails("compress", model, model, "--to", "nf4", names=str(model))
    assert main(["compress", str(model), str(tmp_path / "small"), "--to", "nf4"]) == 0
    fails("compress", tmp_path / "small", tmp_path / "smaller", "--to", "int8", names=str(tmp_path / "small"))
