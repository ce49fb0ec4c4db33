"""Settings tried in short runs: which one is chosen, what is not repeated, and what is refused."""

import csv
import json
from pathlib import Path

import pytest

from commands.test_tasks import RUN, WORDS, base
from langwright.cli import main
from processes import kill_at
from refusals import Fails, Prints


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder, and rows whose label is the kind of their words."""
    folder = tmp_path_factory.mktemp("made")
    base(folder / "llama", "llama")
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", "split"])
        for i in range(96):
            label = list(WORDS)[i % 2]
            part = "test" if i >= 88 else "dev" if i >= 64 else "train"
            table.writerow([f"{WORDS[label][i % 4]}, {WORDS[label][i // 4 % 4]}", label, part])
    return folder


def tune(made: Path, out: Path, *more: str, steps: int = 64) -> list[str]:
    words = ["finetune", made / "llama", made / "rows.csv", out, "--task", "classify", "--steps", steps, *RUN, *more]
    return [str(word) for word in words]


SEARCH = ["--search", "learning-rate=1e-7,0.01"]
TRIALS = ["learning_rate=1e-07", "learning_rate=0.01"]


def test_the_best_on_the_held_out_rows_is_trained(made: Path, tmp_path: Path, prints: Prints, fails: Fails) -> None:
    out, table = tmp_path / "out", tmp_path / "out/search/search.json"
    told = json.loads(prints(*tune(made, out, *SEARCH), "--json"))
    assert told["rows"] == 24  # those of dev; no row of test was read
    found = json.loads(table.read_text())
    assert [trial["name"] for trial in found["trials"]] == TRIALS[::-1]
    assert found["trials"][0]["loss"] < found["trials"][1]["loss"]
    for name in TRIALS:
        record = json.loads((out / "search" / name / "langwright.json").read_text())
        assert record["steps"] == 16
    assert main(tune(made, tmp_path / "plain", "--learning-rate", "0.01")) == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()
    before = table.read_bytes()
    fails(*tune(made, out, "--search", "learning-rate=1e-7,0.02"), names=("--search", "learning_rate=0.01", "out"))
    fails(*tune(made, tmp_path / "plain", *SEARCH), names=("--search", "plain"))
    assert table.read_bytes() == before
    assert {path.name for path in (out / "search").iterdir()} == {*TRIALS, "search.json"}
    assert not (tmp_path / "plain/search").exists()
    assert main(tune(made, out, *SEARCH)) == 0  # finished: nothing is done again


def test_killed_in_a_trial_it_goes_on_and_repeats_none(made: Path, tmp_path: Path) -> None:
    out, every = tmp_path / "out", ["--save-every", "2"]
    arguments = tune(made, out, *SEARCH, *every, steps=80)
    first, second = (out / "search" / name for name in TRIALS)
    kill_at(5, arguments, second)
    done = (first / "model.safetensors").stat().st_mtime_ns
    assert not (second / "model.safetensors").exists()
    assert main(arguments) == 0
    assert (first / "model.safetensors").stat().st_mtime_ns == done
    rows = map(json.loads, (second / "metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows if "loss" in row] == [*range(1, 21)]
    assert main(tune(made, tmp_path / "plain", "--learning-rate", "0.01", *every, steps=80)) == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--search", "rang=1,4"], ['"rang"', "rank"]),
        (["--search", "rank=1"], ["rank=1"]),
        (["--search", "rank=1,1"], ["rank=1,1"]),
        (["--search", "rank=1,x"], ["rank", '"x"']),
        (["--search", "steps=1,2"], ['"steps"']),
        (["--search", "seed=1,2", "--search", "seed=3,4"], ['"seed"']),
        (["--search", "rank=1,4"], ["--rank", "lora"]),
        (["--search", "learning_rate=-1,1"], ["--learning-rate"]),
        (["--search", "seed=1,2", "--extend"], ["--extend", "--search"]),
    ],
)
def test_what_cannot_be_searched_is_refused(
    more: list[str], named: list[str], made: Path, tmp_path: Path, fails: Fails
) -> None:
    fails(*tune(made, tmp_path / "out", *more), names=tuple(named))
    assert not (tmp_path / "out" / "search").exists()
