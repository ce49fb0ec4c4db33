"""langwright label as a process: killed at any moment, it has lost nothing; refusals; the report."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from langwright.corpora.judgements import LABELS, json_lines
from refusals import Fails, Prints  # type: ignore[import-not-found]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json_lines([{"prompt": f"p{n}", "answers": {"a": f"x{n}", "b": f"y{n}"}} for n in range(6)]))
    return path


@contextmanager
def page(*words: object) -> Iterator[tuple[httpx.Client, "subprocess.Popen[str]"]]:
    """A page of its own."""
    command = [sys.executable, "-m", "langwright", "label", *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), process.communicate(timeout=10)
        with httpx.Client(base_url=line.split()[-1], timeout=30) as http:
            yield http, process
    finally:
        process.kill()
        process.wait(10)


def says(http: httpx.Client, labeller: str, count: int) -> int:
    """Label as many, x before y; gives how many are done."""
    told: dict[str, Any] = http.post("/next", json={"labeller": labeller}).json()
    for _ in range(count):
        item = told["item"]
        marks = [1 if answer.startswith("x") else 2 for answer in item["answers"]]
        body = {"labeller": labeller, "item": item["id"], "shown": item["shown"], "marks": marks}
        told = http.post("/label", json=body).json()
    return int(told["done"])


def test_killed(rows: Path, tmp_path: Path, prints: Prints) -> None:
    """What was said is there after SIGKILL; the same command goes on; at its end stand the files and the report."""
    out = tmp_path / "out"
    with page(rows, out, "--overlap", 2) as (http, process):
        assert says(http, "anna", 4) == 4
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert sorted(os.listdir(out)) == [".lock", LABELS]
    assert len((out / LABELS).read_text().splitlines()) == 4
    with page(rows, out, "--overlap", 2, "--json") as (http, process):
        other = [sys.executable, "-m", "langwright", "label", str(rows), str(out), "--port", "0"]
        second = subprocess.run(other, capture_output=True, text=True, timeout=60)
        assert (second.returncode, second.stdout) == (2, "")
        assert str(process.pid) in second.stderr
        assert says(http, "anna", 2) == 6
        assert says(http, "ben", 3) == 3
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=30)
        assert process.returncode == 0
    report = json.loads(told)
    assert report == json.loads((out / "report.json").read_text())
    assert (report["rank"]["units"], report["rank"]["pairs"][0]["equal"]) == (3, 1.0)
    best, worst = report["scores"]["models"]
    assert (best["model"], best["win_rate"], worst["model"]) == ("a", 1.0, "b")
    assert json.loads((out / "preferences.jsonl").read_text().splitlines()[0]) == {
        "prompt": "p0", "chosen": "x0", "rejected": "y0",
    }  # fmt: skip
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.name != ".lock"}
    assert "a: score" in prints("label", rows, out, "--export")
    assert before == {file.name: file.read_bytes() for file in out.iterdir() if file.name != ".lock"}


def test_refused(rows: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the flag, or file and row; nothing is made."""
    out = tmp_path / "out"
    fails("label", rows, out, "--host", "0.0.0.0", names=("--host", "--api-key"))
    fails("label", rows, out, "--port", "70000", names="--port")
    fails("label", rows, out, "--overlap", "0", names="--overlap")
    fails("label", rows, out, "--resamples", "0", names="--resamples")
    fails("label", rows, out, "--ask", "vote", names="ask")
    fails("label", rows, out, "--api-key", " ", names="--api-key")
    fails("label", rows, out, "--export", names=str(out))
    fails("label", tmp_path / "none.jsonl", out, names="none.jsonl")
    (tmp_path / "one.jsonl").write_text('{"prompt": "p"}\n')
    fails("label", tmp_path / "one.jsonl", out, "--ask", "rank", names=("one.jsonl", "--ask"))
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p"}\n{"prompt": "p", "answers": 3}\n')
    fails("label", tmp_path / "bad.jsonl", out, names=("bad.jsonl:2", "answers"))
    fails("label", tmp_path, tmp_path / "out", names=str(out))
    fails("label", rows, rows, names=str(rows))
    assert not out.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "preferences.jsonl").write_text("mine")
    for more in ([], ["--export"]):
        fails("label", rows, tmp_path / "mine", *more, names="mine")
    assert (tmp_path / "mine" / "preferences.jsonl").read_text() == "mine"
    out.mkdir()
    (out / LABELS).write_text("{}\n")
    fails("label", rows, out, "--export", names=f"{LABELS}:1")
