"""The live view of a training run in a terminal, and its plain twin where there is no terminal."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from langwright.base.console import console, format_seconds, say
from langwright.viewing.terminal import sparkline
from langwright.viewing.text import event_words

SECONDS_BETWEEN_LINES = 10.0


class LiveView:
    """Shows the rows of metrics.jsonl as they come: loss, speed, share of the machine's GEMM rate, time left, a sample.

    Args:
        title: what is being trained.
        flops_per_token: for the share of the ceiling that training reaches.
        gemm_rate: the ceiling.
    """

    def __init__(self, title: str, flops_per_token: float, gemm_rate: float):
        self._title, self._flops, self._ceiling = title, flops_per_token, gemm_rate
        self._rows: list[Mapping[str, Any]] = []
        self._validation = self._sample = ""
        self._last_line = 0.0
        self._live: Live | None = None

    def __enter__(self) -> "LiveView":
        if console().is_terminal:
            self._live = Live(console=console(), get_renderable=self._render, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._rows:
            self._line()

    def row(self, row: Mapping[str, Any]) -> None:
        """Take a row of metrics."""
        measured = [name for name in row if name.startswith("validation_")]
        if measured:
            name = "validation_loss" if "validation_loss" in measured else measured[0]
            self._validation = f"{row[name]:.4f}"
            if self._live is None:
                say(f"  step {row['step']:,}  {name.replace('_', ' ')} {self._validation}")
            return
        self._rows.append(row)
        if self._live is None and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line()

    def sample(self, step: int, text: str) -> None:
        """Take a sample of the model's writing."""
        self._sample = text
        if self._live is None:
            say(f"  sample at step {step:,}: {text!r}")

    def event(self, event: Mapping[str, Any]) -> None:
        """Tell of something notable; a change of the step count within a budget is no news."""
        if event["event"] != "re-planned":
            detail = event_words(event)
            say(f"  step {event['step']:,}: {event['event']}{': ' if detail else ''}{detail}")

    def _numbers(self) -> dict[str, str]:
        first, row = self._rows[0], self._rows[-1]
        done, speed = row["step"] - first["step"], row["tokens_per_second"]
        numbers = {
            "step": f"{row['step']:,} of {row['steps']:,}",
            **({"reward": f"{row['reward']:.3f}"} if "reward" in row else {}),
            **({"KL": f"{row['kl']:.2f}"} if "kl" in row else {}),
            "loss": f"{row['loss']:.4f}",
            "speed": f"{speed:,.0f} tokens/s",
            "GEMM rate": f"{100 * speed * self._flops / self._ceiling:.0f} %",
            "time left": "?",
        }
        if done:
            seconds = (row["seconds"] - first["seconds"]) / done * (row["steps"] - row["step"])
            numbers["time left"] = format_seconds(seconds)
        return numbers | ({"validation": self._validation} if self._validation else {})

    def _line(self) -> None:
        self._last_line = time.monotonic()
        say("  " + "  ".join(f"{name} {value}" for name, value in self._numbers().items()))

    def _render(self) -> RenderableType:
        if not self._rows:
            return Text("the first step …", style="dim")
        row, width = self._rows[-1], max(10, min(console().width, 110) - 6)
        entries = self._numbers()
        numbers = Table(*entries, box=None, expand=True, header_style="dim", padding=(0, 3, 0, 0), pad_edge=False)
        numbers.add_row(*entries.values(), style="bold")
        bar = Table.grid()  # a bar by itself would take the whole width
        bar.add_row(ProgressBar(total=row["steps"], completed=row["step"], width=width))
        shown = "reward" if "reward" in row else "loss"
        # The first tenth, whose fall from ln V would flatten all that follows, is left out.
        values = [row[shown] for row in self._rows[len(self._rows) // 10 :]]
        curve = Text.assemble((f"{shown} ", "dim"), (sparkline(values, width - 8), "cyan"))
        parts: list[RenderableType] = [bar, numbers, curve]
        if self._sample:
            written = Text(self._sample.strip("\n"), overflow="fold")
            parts.append(Panel(written, title="the model writes", title_align="left", style="dim"))
        return Panel(Group(*parts), title=self._title, title_align="left", width=width + 4)
