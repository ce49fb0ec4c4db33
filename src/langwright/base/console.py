"""What a person sees while a command works: lines and progress bars on stderr. Results go to stdout.

Rich is imported when something is first shown, never before.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 5.0


@functools.cache
def console() -> "Console":
    """The one rich console of the process, on stderr; live views are drawn on it so that they do not collide."""
    from rich.console import Console

    return Console(stderr=True, quiet=not is_first(), highlight=False, emoji=False)


def is_first() -> bool:
    """Whether this process talks to the user; of those that `torchrun` starts the first one does."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def say(text: str) -> None:
    """Tell the user something, on stderr, exactly as written (no markup)."""
    console().print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Tell the user of something that may be wrong."""
    from rich.text import Text

    console().print(Text.assemble(("warning: ", "bold yellow"), text), soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    print(json.dumps(value, ensure_ascii=False))


@contextmanager
def progress(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far a long job has come; the block is given a function that adds a number of finished units.

    total: None when it is not known.
    unit: a plural noun such as "documents"; "bytes" are shown as kB, MB and GB.

    On a terminal: a live bar with speed and time left. Elsewhere: a line every few seconds.
    """
    if not is_first():
        yield lambda count: None
    elif console().is_terminal:
        with _bar(unit) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)
    else:
        lines = _Lines(label, total, unit)
        yield lines.advance
        if 0 < lines.told < lines.done:  # short jobs stay silent
            lines.show()


def format_seconds(seconds: int | float) -> str:
    """A duration as a person says it: "12 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_amount(count: int | float, unit: str) -> str:
    """An amount with its unit: "1,234 documents", "12.3 MB"."""
    if unit != "bytes":
        return f"{count:,.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"
    from rich.filesize import decimal

    return decimal(int(count))


def _bar(unit: str) -> "Progress":
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Amount(ProgressColumn):
        """Done, total and speed in the job's own unit."""

        def render(self, task: Task) -> Text:
            return Text(_state(task.completed, task.total, unit, task.speed), style="progress.download")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Amount(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console(),
        redirect_stdout=False,  # stdout carries results, maybe into a pipe
    )


class _Lines:
    """Progress where no live bar can be drawn: a line at most every few seconds, and a last one."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.told = 0
        self.start = self.shown = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.shown >= SECONDS_BETWEEN_LINES:
            self.show()

    def show(self) -> None:
        self.shown, self.told = time.monotonic(), self.done
        elapsed = self.shown - self.start
        speed = self.done / elapsed
        text = f"{self.label}: {_state(self.done, self.total, self.unit, speed)}"
        if self.total is not None and self.done:
            left = (self.total - self.done) / speed
            text += f", {format_seconds(left)} left" if left > 0 else f", {format_seconds(elapsed)}"
        print(text, file=sys.stderr, flush=True)


def _state(done: int | float, total: int | float | None, unit: str, speed: int | float | None) -> str:
    """ "1,200 of 5,000 documents, 310 documents/s", without what is not known yet."""
    text = format_amount(done, unit) if total is None or unit == "bytes" else f"{done:,.0f}"
    text += "" if total is None else f" of {format_amount(total, unit)}"
    return text if speed is None else f"{text}, {format_amount(speed, unit)}/s"
