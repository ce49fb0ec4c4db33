"""Series of several channels from the command line: recordings in, labels of windows out, no subject on both sides."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langwright.cli import main
from langwright.corpora.labelled import Columns
from langwright.corpora.recordings import read_recordings
from langwright.corpora.splits import split_groups
from langwright.evaluation.tasks.series import SeriesLabels, Window
from langwright.media.series import Scale, window_starts
from langwright.text.tokenizer import no_tokenizer
from processes import survives_kills
from refusals import Fails, Prints, refused

RUN = ["--dtype", "float32", "--context", "32", "--depth", "1", "--width", "64", "--log-every", "1"]
CHANNELS = ["acc.x", "acc.y", "turn"]


def recording(activity: str, subject: int, time: int) -> Any:
    """Walking swings, sitting does not; each subject has an offset and a pace."""
    draw, t = np.random.default_rng(subject), np.arange(time)
    made = draw.normal(0, 0.3, (time, 3)) + subject * np.array([1.0, -1.0, 0.0]) + 100
    if activity == "walk":
        made[:, :2] += 2 * np.sin(t / (3 + 0.2 * subject))[:, None]
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recordings of six subjects as an archive and as a table; and those of a seventh."""
    folder = tmp_path_factory.mktemp("made")
    for name, subjects in (("all", range(1, 7)), ("more", [7])):
        parts = [(a, s, t) for s in subjects for a in ("sit", "walk") for t in (1, 2)]
        arrays = {f"{a}_{t}/subject_{s}": recording(a, s, 90 + 20 * t) for a, s, t in parts}
        np.savez(folder / f"{name}.npz", columns=np.array(CHANNELS), **arrays)  # type: ignore[arg-type]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["Subject", "Activity", "trial", "timestamp", *CHANNELS])
            for a, s, t in parts:
                rows = enumerate(arrays[f"{a}_{t}/subject_{s}"].tolist())
                table.writerows([f"subject_{s}", a, t, time / 50, *values] for time, values in rows)
    return folder


def tune(made: Path, out: Path, family: str = "cnn", data: str = "all.npz", steps: int = 40) -> list[str]:
    words = ["finetune", f"new:{family}", made / data, out, "--task", "series", "--steps", steps, *RUN]
    return [str(word) for word in words]


@pytest.mark.parametrize("family", ["cnn", "lstm", "bert"])
def test_it_learns_from_some_and_is_measured_on_others(
    family: str, made: Path, tmp_path: Path, prints: Prints, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    told = json.loads(prints(*tune(made, out, family), "--split", "subject_2,subject_5", "--json"))
    assert told["accuracy"] > 0.9
    assert {"loss", "macro_f1", "rows"} < set(told)
    record = json.loads((out / "langwright.json").read_text())
    assert set(record["details"]["by_subject"]) == {"subject_2", "subject_5"}
    assert np.sum(record["details"]["confusion"]) == told["rows"]
    assert "subject_5" in (out / "report.html").read_text()
    seen = [
        row for s in (1, 3, 4, 6) for a in ("sit", "walk") for t in (1, 2) for row in [recording(a, s, 90 + 20 * t)]
    ]
    pieces = [row[i : i + 32] for row in seen for i in window_starts(len(row), 32, 16)]
    assert record["task"]["mean"] == pytest.approx(np.concatenate(pieces).mean(0).tolist(), abs=1e-3)
    assert not [path.name for path in out.iterdir() if path.name.startswith("tokenizer")]
    lines = [json.loads(line) for line in prints("predict", out, made / "more.npz").splitlines()]
    assert [(row["recording"].partition(": ")[2], row["start"]) for row in lines[:6]] == [
        ("sit_1/subject_7", 16 * i) for i in range(5)
    ] + [("sit_2/subject_7", 0)]
    table = [json.loads(line) for line in prints("predict", out, made / "more.csv").splitlines()]
    assert [row["probabilities"] for row in table] == [row["probabilities"] for row in lines]
    measured = json.loads(prints("evaluate", out, "--data", made / "more.csv", "--json"))
    right = [row["label"] == row["recording"].partition(": ")[2][: len(row["label"])] for row in lines]
    assert measured["accuracy"] == pytest.approx(np.mean(right))


def test_killed_and_run_again_it_ends_with_the_same_bytes(made: Path, tmp_path: Path) -> None:
    every = ["--save-every", "3", "--evaluate-every", "3", "--dropout", "0.1"]
    survives_kills(lambda out: [*tune(made, tmp_path / out, "lstm", steps=12), *every], tmp_path, [5])


@pytest.mark.parametrize("split", ["25%", "0.5", "1%", "99%", "b,d"])
def test_no_group_is_on_both_sides(split: str) -> None:
    items = [(name, i) for i in range(3) for name in "abcde"]
    training, held_out = split_groups(items, split, lambda item: item[0], spec="x", what="subject")
    seen, measured = ({item[0] for item in side} for side in (training, held_out))
    assert seen | measured == set("abcde")
    assert not seen & measured
    wanted = {"25%": 1, "0.5": 2, "1%": 1, "99%": 4, "b,d": 2}
    assert len(measured) == wanted[split]
    assert sorted(training + held_out) == sorted(items)


def test_windows_and_scale() -> None:
    assert [list(window_starts(n, 8, 4)) for n in (3, 8, 11, 12, 17)] == [[0], [0], [0], [0, 4], [0, 4, 8]]
    series = [np.array([[1, 5], [3, 5]], np.float32), np.array([[5, 5]], np.float32)]
    scale = Scale.of(series)
    assert scale.mean == pytest.approx((3, 5))
    assert scale.deviation == pytest.approx((np.std([1, 3, 5]), 1))
    assert np.concatenate([scale(each) for each in series]).mean(0) == pytest.approx((0, 0))


def test_rows_are_one_recording_as_long_as_they_are_about_one_thing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,label,x\n1,a,0.5\n1,a,1\n1,b,2\n2,b,3\n1,b,4\n")
    names, found = read_recordings(tmp_path / "a.csv")
    assert names == ("x",)
    assert [(one.label, one.subject, one.values[:, 0].tolist()) for one in found] == [
        ("a", "1", [0.5, 1.0]), ("b", "1", [2.0]), ("b", "2", [3.0]), ("b", "1", [4.0]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "more", "named"),
    [
        ("subject,x\n1,2\n", [], ["bad.csv", "holds the label", "--label-field"]),
        ("label,x\na,2\n", [], ["bad.csv", "subject", "--group-field"]),
        ("subject,label,x\n1,a,2\n1,a,nan\n", [], ["bad.csv:3", '"x"', "nan"]),
        ("subject,label,x\n1,a,2\n1,a,\n", [], ["bad.csv:3", '"x"']),
        ("subject,label,x\n1,a,2\n,a,1\n", [], ["bad.csv:3", '"subject"']),
        ("subject,label\n1,a\n", [], ["bad.csv", "channel"]),
        ("subject,label,x\n1,a,2\n1,b,3\n", [], ["bad.csv", "subject", "--validation"]),
        ("subject,label,x\n1,a,2\n2,a,3\n", [], ["bad.csv", '"a"']),
        ("subject,label,x\n1,a,2\n2,b,3\n", ["--group-field", "who"], ["bad.csv", '"who"']),
        ("subject,label,x\n1,a,2\n2,b,3\n", ["--split", "1,2"], ["--split 1,2"]),
        ("subject,label,x\n1,a,2\n2,b,3\n", ["--split", "w,1"], ["--split w,1", '"w"', '"1", "2"']),
        ("subject,label,x\n1,a,2\n2,b,3\n", ["--vocabulary", "99"], ["--vocabulary"]),
        ("subject,label,x\n1,a,2\n2,b,3\n", ["--text-field", "x"], ["--text-field x"]),
    ],
)
def test_bad_tables_are_refused_in_one_line(
    table: str, more: list[str], named: list[str], tmp_path: Path, fails: Fails
) -> None:
    (tmp_path / "bad.csv").write_text(table)
    fails(*tune(tmp_path, tmp_path / "out", data="bad.csv"), *more, names=tuple(named))


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"walk_1/one": np.zeros((0, 2))}, "walk_1/one"),
        ({"walk_1/one": np.full((9, 2), np.nan)}, "walk_1/one"),
        ({"walk_1/one": np.zeros(9)}, "walk_1/one"),
        ({"walk": np.zeros((9, 2))}, '"walk"'),
        ({"walk_1/one": np.zeros((9, 2)), "walk_1/two": np.zeros((9, 3))}, "walk_1/two"),
        ({}, "bad.npz"),
    ],
)
def test_bad_archives_are_refused(arrays: dict[str, Any], named: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with refused("bad.npz", named):
        read_recordings(tmp_path / "bad.npz")


def test_what_reads_no_text_says_so(made: Path, untrained: Path, tmp_path: Path, fails: Fails) -> None:
    out = tmp_path / "out"
    assert main(tune(made, out, steps=1)) == 0
    asked = [("generate", "--prompt", "x"), ("chat",), ("next", "x"), ("show", "--attention", "x")]
    for verb, *more in (*asked, ("evaluate", "--text", str(made))):
        fails(verb, out, *more, names=("out", "series"))
    (tmp_path / "rows.csv").write_text("text,label\n" + "fine,good\nsour,bad\n" * 20)
    words = ["--task", "classify", "--split", "0.5"]
    fails("finetune", out, tmp_path / "rows.csv", tmp_path / "x", *words, names=("series", "classify"))
    words = ["--task", "series", "--context", "32"]
    fails("finetune", untrained, made / "all.npz", tmp_path / "x", *words, names=("series", "untrained"))
    fails("finetune", out, made / "all.npz", tmp_path / "x", *words, "--method", "lora", names="--method lora")
    fails("finetune", "new:t5", made / "all.npz", tmp_path / "x", *words, names=("new:t5", "cnn"))
    (tmp_path / "odd.csv").write_text("subject,label,x\n1,sit,2\n")
    fails("predict", out, tmp_path / "odd.csv", names=("odd.csv", "acc.x"))


def test_short_windows_are_padded_with_the_mean_and_masked() -> None:
    task = SeriesLabels(Columns(), ("a", "b"), channels=("x",), window=8, step=4, mean=(5.0,), deviation=(2.0,))
    items = [Window(np.full((n, 1), 7, np.float32), ("b",), "one", "here", 0) for n in (8, 3)]
    batch: Any = task.rows(items, no_tokenizer(), 8).batch(np.arange(2), np.arange(2))
    assert batch.series[:, :, 0].tolist() == [[1.0] * 8, [1.0] * 3 + [0.0] * 5]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert batch.labels.tolist() == [1, 1]
    assert float(batch.inputs(batch.weights.sum())) == 3
