"""What a person sees."""

import subprocess
import sys

import pytest
from rich.console import Console

from langwright.base import console


def test_words_go_to_stderr_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a [bold]list[/bold] [1]")
    console.warn("low [memory]")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "a [bold]list[/bold] [1]\nwarning: low [memory]\n"


def test_long_lines_are_not_folded(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress("reading", 1200, "files") as advance:
        for _ in range(12):
            now += 1.0
            advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 500 of 1,200 files, 100 files/s, 7 s left",
        "reading: 1,000 of 1,200 files, 100 files/s, 2 s left",
        "reading: 1,200 of 1,200 files, 100 files/s, 12 s",
    ]


def test_short_jobs_without_a_terminal_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("reading", None, "files") as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Console(stderr=True, force_terminal=True, width=120)
    monkeypatch.setattr(console, "console", lambda: terminal)
    with console.progress("reading [x]", 2_000_000, "bytes") as advance:
        advance(500_000)
        advance(1_500_000)
    err = capsys.readouterr().err
    assert "reading [x]" in err
    assert "2.0 MB of 2.0 MB" in err
    assert "━" in err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert console.format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "unit", "text"),
    [
        (1234, "files", "1,234 files"),
        (1.25, "files", "1.2 files"),
        (12, "bytes", "12 bytes"),
        (12_345_678, "bytes", "12.3 MB"),
        (3e9, "bytes", "3.0 GB"),
    ],
)
def test_format_amount(count: float, unit: str, text: str) -> None:
    assert console.format_amount(count, unit) == text


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; import langwright.base.console, langwright.base.files, langwright.base.quantities;"
        "print([name for name in ('rich', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
