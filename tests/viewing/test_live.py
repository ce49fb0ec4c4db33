"""The live view of a training run, with and without a terminal."""

import io

import pytest
from rich.console import Console

from langwright.viewing import live
from langwright.viewing.live import LiveView


def row(step: int) -> dict[str, float]:
    return {"step": step, "steps": 400, "loss": 2 + 6 / step, "seconds": step / 10, "tokens_per_second": 12345.0}


def drawn(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=110)
    console.print(view._render())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_everything_worth_watching_is_shown() -> None:
    view = LiveView("a model", flops_per_token=1e6, gemm_rate=1e11)
    assert "first step" in drawn(view)
    for step in range(1, 40):
        view.row(row(step))
    view.row({"step": 39, "seconds": 5.0, "validation_loss": 2.5})
    view.sample(39, "\nOnce upon")
    text = drawn(view)
    for shown in ("a model", "39 of 400", "2.1538", "12,345 tokens/s", "12 %", "36 s", "2.5000", "Once upon", "▁"):
        assert shown in text


def test_without_a_terminal_lines_come_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(live.time, "monotonic", lambda: float(next(clock)))
    with LiveView("a model", 1e6, 1e11) as view:
        for step in range(1, 11):
            view.row(row(step))
        view.event({"step": 5, "event": "not finite", "samples": [3, 4]})
        view.event({"step": 5, "event": "re-planned", "steps": 7})
    told = capsys.readouterr().err
    assert "step 10 of 400" in told
    assert 3 <= told.count("loss") <= 6
    assert "step 5: not finite: samples [3, 4]" in told
    assert "re-planned" not in told
