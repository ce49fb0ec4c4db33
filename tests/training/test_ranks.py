"""Several processes that share a run: the same losses and samples, one log, one writer, and one end for all."""

import json
from pathlib import Path

import pytest

from langwright.cli import main
from langwright.training.checkpoints import Checkpoints
from processes import command, on_ranks

BASE = ["--context", "16", "--batch-size", "4", "--dtype", "float32", "--device", "cpu", "--log-every", "1 steps"]
MODEL = ["--tokenizer", "bytes", "--depth", "1", "--family", "gpt2", "--sample-every", "0 steps"]
MODEL += ["--learning-rate", "0.001"]  # at a high one rounding grows to anything in sixty steps


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(
            f"Seven humans met {number} tunas, and {number + 1} cats ate them.\n" * 3
        )
    return folder


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "loss" in row]


def ranked(arguments: list[str], errors: Path, **changes: object) -> list[int]:
    errors.mkdir(exist_ok=True)
    return on_ranks(command, [*arguments, "--parallel", "ddp"], errors, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(text: Path) -> Path:
    out = text.parent / "alone"
    assert main(["pretrain", str(text), str(out), "--steps", "60 steps", *BASE, *MODEL]) == 0
    return out


@pytest.mark.parametrize("more", [[], ["--objective", "masked", "--family", "bert"]], ids=["causal", "masked"])
def test_two_ranks_train_as_one_process_and_another_number_goes_on(
    more: list[str], text: Path, alone: Path, tmp_path: Path
) -> None:
    def arguments(out: Path) -> list[str]:
        return ["pretrain", str(text), str(out), "--steps", "60 steps", *BASE, *MODEL, *more]

    if more:  # whose noise is that of one process, too
        alone = tmp_path / "alone"
        assert main(arguments(alone)) == 0
    out, made = tmp_path / "out", [*arguments(tmp_path / "out"), "--micro-batch", "1"]
    assert ranked(made, tmp_path / "errors", stop=lambda: logged(out) >= 3) == [143, 143]
    assert (tmp_path / "errors/1").read_text() == ""
    assert logged(out) < 60
    assert main(made) == 0
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5)


def test_an_adapter_too_in_bfloat16_and_killed_ranks_go_on(text: Path, alone: Path, tmp_path: Path) -> None:
    ends = []
    for name, stop in (("undisturbed", None), ("stopped", lambda: logged(tmp_path / "stopped") >= 3)):
        made = ["finetune", str(alone), str(text), str(tmp_path / name), "--method", "lora", "--steps", "20 steps"]
        made += [*BASE, "--dtype", "bfloat16", "--micro-batch", "1", "--sample-every", "0 steps", "--dropout", "0.1"]
        if stop is not None:
            assert ranked(made, tmp_path / "errors", stop=stop) == [143, 143]
            assert len(list((tmp_path / name / "checkpoints").glob("step-*"))) == 1
        assert ranked(made, tmp_path / "errors") == [0, 0]
        ends.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert ends[0] == ends[1]


def logged(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def test_a_mistake_ends_all_ranks_with_one_line(text: Path, tmp_path: Path) -> None:
    made = ["pretrain", str(text), str(tmp_path / "out"), *BASE, *MODEL, "--batch-size", "3"]
    assert ranked(made, tmp_path / "errors") == [2, 2]
    lines = [line for rank in "01" for line in (tmp_path / "errors" / rank).read_text().splitlines()]
    assert ["2 ranks" in line for line in lines if "langwright pretrain" in line] == [True]
    assert not any("Traceback" in line for line in lines)
    assert ranked(["pretrain", str(text), str(tmp_path / "out"), "--famly", "gpt2"], tmp_path / "errors") == [2, 2]
    assert (tmp_path / "errors/1").read_text() == ""


def test_the_failure_of_one_rank_ends_the_others(text: Path, tmp_path: Path) -> None:
    made = ["pretrain", str(text), str(tmp_path / "out"), "--steps", "9 steps", *BASE, *MODEL]
    (tmp_path / "errors").mkdir()
    assert on_ranks(failing, [*made, "--parallel", "ddp"], tmp_path / "errors") == [2, 2]
    lines = [line for rank in "01" for line in (tmp_path / "errors" / rank).read_text().splitlines()]
    assert sum("no room" in line for line in lines) == 1
    assert not any("Traceback" in line for line in lines)


def failing(arguments: list[str], errors: Path) -> None:
    """The first rank cannot write its checkpoint; the other one waits for it by then."""

    def save(*_: object) -> None:
        raise OSError(28, "no room", "out")

    Checkpoints.save = save  # type: ignore[method-assign, assignment]
    command(arguments, errors)


def test_ranks_must_be_asked_for(text: Path, tmp_path: Path) -> None:
    made = ["pretrain", str(text), str(tmp_path / "out"), *BASE, *MODEL]
    assert main([*made, "--parallel", "ddp"]) == 2
    errors = tmp_path / "errors"
    errors.mkdir()
    assert on_ranks(command, made, errors) == [2, 2]
