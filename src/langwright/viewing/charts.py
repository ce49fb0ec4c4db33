"""Line charts as inline SVG and bar charts as tables. Colours come from the page's style sheet.

The style sheet shows the values under the pointer. matplotlib's SVG looks as good, but has neither these values nor the
colours of a dark page.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from langwright.viewing.page import Html, macro
from langwright.viewing.scales import Scale, fit
from langwright.viewing.text import compact

Point = tuple[float, float]

_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 34, 44
_STRIPS = 120  # places where a pointer finds values
_COLUMNS = 500  # a longer series is drawn by the extremes of this many groups


@dataclass(frozen=True)
class Series:
    """One quantity over another; a value that is not finite leaves a gap.

    Args:
        name: of the line, in the legend and the hover text.
        x: where the values stand.
        y: the values, as many.
        style: a line, a faint line (not named in the legend), or a line with a marker at each point.
        colour: 0 to 3, a colour of the style sheet.
    """

    name: str
    x: Iterable[float]
    y: Iterable[float]
    style: Literal["line", "faint", "points"] = "line"
    colour: int = 0

    @cached_property
    def runs(self) -> list[list[Point]]:
        """The points of the stretches between gaps."""
        points = [(float(x), float(y)) for x, y in zip(self.x, self.y, strict=True) if math.isfinite(x)]
        stretches = groupby(points, lambda point: math.isfinite(point[1]))
        return [list(run) for finite, run in stretches if finite]

    @cached_property
    def points(self) -> list[Point]:
        """All points that can be drawn."""
        return list(chain(*self.runs))


@dataclass(frozen=True)
class Axes:
    """What a chart's axes say and show.

    Args:
        x_label: what runs along the bottom.
        y_label: the quantity, and the title of the chart.
        zero: whether the vertical axis begins at 0.
        top: where it ends; lines above leave the frame.
        width: in pixels.
        height: in pixels.
    """

    x_label: str
    y_label: str
    zero: bool = False
    top: float = math.inf
    width: int = 1016
    height: int = 360


class Bar(NamedTuple):
    """One bar: a name, a value from 0 up, and a remark; `ours` sets it off from the rest."""

    name: str
    value: float
    remark: str = ""
    ours: bool = False


def line_chart(series: Sequence[Series], axes: Axes) -> Html:
    """Lines over common axes with ticks, a legend and hover text; nothing where no value is finite.

    Long series are thinned to their extremes, so that no spike is lost.
    """
    drawn = [one for one in series if one.points]
    named = [one for one in drawn if one.style != "faint"]
    if not drawn:
        return Html("")
    points = [point for one in drawn for point in one.points]
    x = fit((a for a, _ in points), _LEFT, axes.width - _RIGHT, room=0)
    y = fit((b for _, b in points if b <= axes.top), axes.height - _BOTTOM, _TOP, zero=axes.zero)
    ends = [f"{one.name} from {compact(one.points[0][1], 4)} to {compact(one.points[-1][1], 4)}" for one in named]
    summary = f"{axes.y_label} against {axes.x_label}: {', '.join(ends)}"
    lines, strips = [(one, *_line(one, x, y)) for one in drawn], list(_strips(named or drawn, x, axes.x_label))
    return macro("chart.html", "chart", axes, summary, x, y, lines, named, strips)


def bars(rows: Sequence[Bar], headings: tuple[str, str, str], show: Callable[[float], str] = compact) -> Html:
    """A table of names, values and remarks in which each value is also a bar from zero.

    Args:
        rows: the bars, from the top. A value that is not finite has none.
        headings: of the names, the values and the remarks; a column without remarks is left out.
        show: how a value is written.
    """
    largest = max((row.value for row in rows if math.isfinite(row.value)), default=0.0)
    shares = [row.value / largest if largest > 0 and math.isfinite(row.value) else 0.0 for row in rows]
    shown = list(zip(rows, [show(row.value) for row in rows], shares, strict=True))
    return macro("parts.html", "bars", shown, headings)


def _line(series: Series, x: Scale, y: Scale) -> tuple[str, list[Point]]:
    """The path through the stretches between gaps, and the points that are marked: all, or those that stand alone."""
    runs = [_thin(run) for run in series.runs]
    path = "".join("M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in run) for run in runs if len(run) > 1)
    return path, [point for run in runs if series.style == "points" or len(run) == 1 for point in run]


def _thin(run: list[Point]) -> list[Point]:
    """At most four points of each group, first, lowest, highest and last, in their order."""
    if len(run) <= 4 * _COLUMNS:
        return run
    size = math.ceil(len(run) / _COLUMNS)
    kept = []
    for start in range(0, len(run), size):
        group = range(start, min(start + size, len(run)))
        extremes = (choose(group, key=lambda i: run[i][1]) for choose in (min, max))
        kept += [run[i] for i in sorted({group[0], *extremes, group[-1]})]
    return kept


def _strips(named: Sequence[Series], x: Scale, label: str) -> Iterator[tuple[float, float, float, list[Any], str]]:
    """Upright strips that light up under the pointer: their ends, a place, the points on it, and those in words."""
    places = sorted({a for one in named for a, _ in one.points})
    places = places[:: math.ceil(len(places) / _STRIPS)]
    edges = [x.start, *((x(a) + x(b)) / 2 for a, b in pairwise(places)), x.stop]
    columns = [np.array([a for a, _ in one.points]) for one in named]
    for place, (left, right) in zip(places, pairwise(edges), strict=True):
        nearest = [one.points[np.abs(c - place).argmin()] for one, c in zip(named, columns, strict=True)]
        found = [(one, p) for one, p in zip(named, nearest, strict=True) if left <= x(p[0]) <= right]
        words = [f"{label} {compact(place, 4)}", *(f"{one.name} {compact(point[1], 4)}" for one, point in found)]
        yield left, right, x(place), found, " · ".join(words)
