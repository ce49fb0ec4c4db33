"""langwright prepare, as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from langwright.cli import main
from langwright.corpora.conversations import open_chats
from refusals import Fails

LONG = "The cat sat on the mat because the mat was warm and nobody else had thought of sitting there before"


def row(asked: str, said: str) -> dict[str, Any]:
    return {"instruction": asked, "output": said}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        row("Why?", LONG),
        row("Why?", LONG),  # the same
        row("Why?", LONG + " today"),  # nearly
        row("Explain the quick fox.", "It is fast, it is brown, and it has jumped over many a lazy dog."),
        row("Empty?", ""),
        row("One?", "Yes."),
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows))
    return path


def run(data: Path, out: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    assert main(["prepare", str(data), str(out), *more, "--json"]) == 0
    report: dict[str, int] = json.loads(capsys.readouterr().out)
    return report


def test_each_step_drops_its_own(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    steps = ["--deduplicate", "--check", "--near", "0.8", "--min-words", "3", "--augment", "synonyms,swap"]
    assert run(data, out, *steps, capsys=capsys) == {
        "read": 6,
        "dropped: equal to an earlier one": 1,
        "dropped: a fault": 1,
        "dropped: too short": 1,
        "dropped: nearly equal to an earlier one": 1,
        "added by synonyms, swap": 2,
        "written": 4,
    }
    chats = open_chats(str(out)).items
    assert [c.messages[0]["content"] for c in chats[:2]] == ["Why?", "Explain the quick fox."]
    assert chats[2].messages[0]["content"] in (
        "Clarify the quick fox.",
        "Explain the fast fox.",
        "Explain the rapid fox.",
    )
    again = tmp_path / "again.jsonl"
    run(data, again, *steps, capsys=capsys)
    assert again.read_bytes() == out.read_bytes()


def test_the_best_by_heuristics(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(data, tmp_path / "out.jsonl", "--keep", "0.5", "--max-words", "30", capsys=capsys)
    kept = open_chats(str(tmp_path / "out.jsonl")).items
    assert [c.messages[0]["content"] for c in kept] == ["Why?"] * 3


@pytest.mark.parametrize("by", ["relevance", "difficulty"])
def test_a_model_counts_and_scores(
    by: str, data: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--model", str(untrained), "--max-tokens", "100", "--keep", "0.5", "--by", by]
    report = run(data, tmp_path / "out.jsonl", *more, capsys=capsys)
    assert report["dropped: more tokens than --max-tokens"] == 4
    assert report["written"] == 1


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--near", "1.5"], "--near 1.5"),
        (["--keep", "0"], "--keep 0"),
        (["--by", "relevance", "--keep", "0.5"], ("--by relevance", "--model")),
        (["--max-tokens", "5"], ("--max-tokens", "--model")),
        (["--by", "difficulty"], ("--by", "--keep")),
        (["--augment", "typo"], ("--augment", "typos")),
        (["--max-words", "0"], "--max-words 0"),
        (["--min-words=-3"], "--min-words -3"),
        (["--max-tokens", "0", "--model", "nowhere"], "--max-tokens 0"),
        (["--min-words", "9", "--max-words", "8"], ("--max-words 8", "--min-words", "9")),
        (["--seed=-1"], "--seed -1"),
        (["--model", "nowhere"], ("--model nowhere", "--max-tokens", "--by", "--check")),
        (["--check", "--template", "zephyr"], ("--template zephyr", "--max-tokens", "--by")),
        (["--min-words", "1000"], ("6", "too short")),
    ],
)
def test_bad_settings(more: list[str], names: str | tuple[str, ...], data: Path, tmp_path: Path, fails: Fails) -> None:
    fails("prepare", data, tmp_path / "out.jsonl", *more, names=names)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_is_there_is_not_overwritten(data: Path, tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    fails("prepare", data, tmp_path / "out.jsonl", names="out.jsonl")
    fails("prepare", data, tmp_path / "out.txt", names=("out.txt", ".jsonl"))
