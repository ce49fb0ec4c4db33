"""The live view of a training run in a terminal, and its plain twin where there is no terminal."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from langwright.base.console import console, format_seconds, say
from langwright.viewing.terminal import sparkline

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

SECONDS_BETWEEN_LINES = 10.0


class LiveView:
    """Shows the rows of metrics.jsonl as they come: loss, speed, share of the machine's GEMM rate, time left, a sample.

    title: what is being trained. flops_per_token, gemm_rate: for the share of the ceiling that training reaches.
    """

    def __init__(self, title: str, flops_per_token: float, gemm_rate: float):
        self._title, self._flops, self._ceiling = title, flops_per_token, gemm_rate
        self._losses: list[float] = []
        self._row: Mapping[str, Any] = {}
        self._validation: float | None = None
        self._sample = ""
        self._first: tuple[int, float] | None = None
        self._last_line = 0.0
        self._live: Live | None = None

    def __enter__(self) -> "LiveView":
        if console().is_terminal:
            from rich.live import Live

            self._live = Live(console=console(), get_renderable=self._render, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._row:
            self._line(force=True)

    def row(self, row: Mapping[str, Any]) -> None:
        """Take a row of metrics."""
        if "validation_loss" in row:
            self._validation = row["validation_loss"]
            if self._live is None:
                say(f"  step {row['step']:,}  validation loss {self._validation:.4f}")
            return
        self._row = row
        self._losses.append(row["loss"])
        if self._first is None:
            self._first = (row["step"], row["seconds"])
        if self._live is None:
            self._line()

    def sample(self, step: int, text: str) -> None:
        """Take a sample of the model's writing."""
        self._sample = text
        if self._live is None:
            say(f"  sample at step {step:,}: {text!r}")

    def event(self, event: Mapping[str, Any]) -> None:
        """Tell of something notable; a change of the step count within a budget is no news."""
        if event["event"] != "re-planned":
            detail = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("step", "event"))
            say(f"  step {event['step']:,}: {event['event']}{': ' if detail else ''}{detail}")

    def _numbers(self) -> dict[str, str]:
        row = self._row
        speed = row["tokens_per_second"]
        numbers = {
            "step": f"{row['step']:,} of {row['steps']:,}",
            "loss": f"{row['loss']:.4f}",
            "speed": f"{speed:,.0f} tokens/s",
            "GEMM rate": f"{100 * speed * self._flops / self._ceiling:.0f} %",
            "time left": self._left(),
        }
        if self._validation is not None:
            numbers["validation"] = f"{self._validation:.4f}"
        return numbers

    def _left(self) -> str:
        if self._first is None or self._row["step"] == self._first[0]:
            return "?"
        per_step = (self._row["seconds"] - self._first[1]) / (self._row["step"] - self._first[0])
        return format_seconds(per_step * (self._row["steps"] - self._row["step"]))

    def _line(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            say("  " + "  ".join(f"{name} {value}" for name, value in self._numbers().items()))

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self._row:
            return Text("the first step …", style="dim")
        numbers = Table.grid(padding=(0, 3), expand=True)
        entries = self._numbers()
        for _ in entries:
            numbers.add_column()
        numbers.add_row(*(Text(name, style="dim") for name in entries))
        numbers.add_row(*(Text(value, style="bold") for value in entries.values()))
        width = max(10, min(console().width, 110) - 6)
        bar = Table.grid()
        bar.add_row(ProgressBar(total=self._row["steps"], completed=self._row["step"], width=width))
        parts: list[RenderableType] = [
            bar,
            numbers,
            Text.assemble(("loss ", "dim"), (sparkline(_after_the_plunge(self._losses), width - 6), "cyan")),
        ]
        if self._sample:
            parts.append(
                Panel(
                    Text(self._sample.strip("\n"), overflow="fold"),
                    title="the model writes",
                    title_align="left",
                    style="dim",
                )
            )
        return Panel(Group(*parts), title=self._title, title_align="left", width=width + 4)


def _after_the_plunge(losses: Sequence[float]) -> Sequence[float]:
    """Without the first tenth, whose fall from ln V would flatten all that follows."""
    return losses[len(losses) // 10 :]
