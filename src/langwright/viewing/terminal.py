"""Small pictures made of text: a sparkline and a bar chart, for terminals and logs."""

import math
from collections.abc import Sequence

import numpy as np
from rich.text import Text

from langwright.viewing.text import visible

_HEIGHTS = "▁▂▃▄▅▆▇█"
_WIDTHS = " ▏▎▍▌▋▊▉█"
_LONGEST_LABEL = 24
_BROKEN = "\N{MULTIPLICATION SIGN}"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The course of `values` in at most `width` characters, the lowest ▁ and the highest █.

    More values than characters are averaged in groups. A group without a finite value is a cross; no values give "".
    """
    groups = np.array_split(np.asarray(values, float), max(1, min(width, len(values))))
    finite = [group[np.isfinite(group)] for group in groups if len(group)]
    means = [group.mean() if len(group) else None for group in finite]
    low = min((mean for mean in means if mean is not None), default=0.0)
    room = max((mean - low for mean in means if mean is not None), default=0.0) or 1.0
    return "".join(_BROKEN if mean is None else _HEIGHTS[min(int(8 * (mean - low) / room), 7)] for mean in means)


def bars(items: Sequence[tuple[str, float]], width: int = 60) -> list[str]:
    """One line an item: its label, a bar and its probability as a percentage; the longest bar fills the room.

    Blanks and control characters in labels are made visible, long labels are shortened, and wide characters count
    double, so that bars begin in one column. A line is at most `width` columns wide, unless that leaves no room for a
    bar.
    """
    labels = [Text(visible(label)) for label, _ in items]
    for label in labels:
        label.truncate(_LONGEST_LABEL, overflow="ellipsis")
    numbers = [f"{100 * value:5.1f} %" if math.isfinite(value) else "    ?  " for _, value in items]
    column = max((label.cell_len for label in labels), default=0)
    room = max(8, width - column - 10)
    largest = max((value for _, value in items if math.isfinite(value)), default=0.0)
    lines = []
    for label, number, (_, value) in zip(labels, numbers, items, strict=True):
        share = value / largest if largest > 0 and math.isfinite(value) else 0.0
        label.pad_right(column - label.cell_len)
        lines.append(f"{label.plain}  {number} {_bar(share, room)}".rstrip())
    return lines


def _bar(share: float, room: int) -> str:
    eighths = round(8 * room * max(share, 0.0))
    return _WIDTHS[-1] * (eighths // 8) + _WIDTHS[eighths % 8].strip()
