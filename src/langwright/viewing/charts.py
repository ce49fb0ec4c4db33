"""Line charts as inline SVG and bar charts as tables. Colours come from the page's style sheet.

The style sheet shows the values under the pointer. matplotlib's SVG looks as good, but has neither these values nor the
colours of a dark page.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal

from langwright.viewing.page import Html, element, join, macros
from langwright.viewing.scales import Scale, fit, tick_labels
from langwright.viewing.text import compact

Style = Literal["line", "faint", "points"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 34, 44
_PROBES = 120  # places where a pointer finds values
_COLUMNS = 500  # a longer series is drawn by the extremes of this many groups
_COLOURS = 4
_SMALLEST = 0.62  # of its size: a chart in less room scrolls, so that its text can be read


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
    x: Sequence[float]
    y: Sequence[float]
    style: Style = "line"
    colour: int = 0

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r} has {len(self.x)} places and {len(self.y)} values")
        if not 0 <= self.colour < _COLOURS:
            raise ValueError(f"series {self.name!r} has colour {self.colour}; there are {_COLOURS}, from 0")


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


@dataclass(frozen=True)
class Bar:
    """One bar: a name, a value from 0 up, and a remark; `ours` sets it off from the rest."""

    name: str
    value: float
    remark: str = ""
    ours: bool = False


def line_chart(series: Sequence[Series], axes: Axes) -> Html:
    """Lines over common axes with ticks, a legend and hover text.

    Long series are thinned to their extremes, so that no spike is lost. Series without a finite value are not drawn;
    when none is left the chart says so.
    """
    drawn = [one for one in map(_placed, series) if any(map(math.isfinite, one.y))]
    frame = {
        "class": "chart",
        "viewBox": f"0 0 {axes.width} {axes.height}",
        "role": "img",
        "style": f"min-width:{_SMALLEST * axes.width:.0f}px",
    }
    if not drawn:
        note = element("text", {"x": axes.width / 2, "y": axes.height / 2, "text-anchor": "middle"}, "no finite values")
        return element("svg", {**frame, "aria-label": f"{axes.y_label}: no finite values"}, note)
    x = fit((value for one in drawn for value in one.x), _LEFT, axes.width - _RIGHT, room=0)
    seen = (value for one in drawn for value in one.y if value <= axes.top)
    y = fit(seen, axes.height - _BOTTOM, _TOP, zero=axes.zero)
    parts = [_grid(x, y, axes), _lines(drawn, x, y, axes), _legend(drawn, axes), _probes(drawn, x, y, axes)]
    picture = element("svg", {**frame, "aria-label": _summary(drawn, axes)}, *parts)
    return element("div", {"class": "scroll"}, picture)


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
    return macros("parts.html")("bars", shown, headings, any(row.remark for row in rows))


def running_average(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and up to `reach` finite ones on either side; as many before as after, but at the end.

    Evenly centred, it does not lag behind a steep fall. Gaps stay gaps and count for nothing.
    """
    finite = [value for value in values if math.isfinite(value)]
    sums = [0.0, *accumulate(finite)]
    means = []
    for index in range(len(finite)):
        side = min(reach, index)
        start, stop = index - side, min(index + side + 1, len(finite))
        means.append((sums[stop] - sums[start]) / (stop - start))
    rest = iter(means)
    return [next(rest) if math.isfinite(value) else math.nan for value in values]


def _placed(series: Series) -> Series:
    """The series without the points whose place is not finite."""
    kept = [(float(x), float(y)) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x)]
    return replace(series, x=[x for x, _ in kept], y=[y for _, y in kept])


def _grid(x: Scale, y: Scale, axes: Axes) -> Html:
    bottom, right = axes.height - _BOTTOM, axes.width - _RIGHT
    parts = []
    y_ticks, x_ticks = y.ticks(axes.height // 48), x.ticks(axes.width // 96)
    for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        place = _px(y(tick))
        parts.append(element("line", {"class": "grid", "x1": _LEFT, "x2": right, "y1": place, "y2": place}))
        parts.append(element("text", {"x": _LEFT - 8, "y": place, "dy": "0.32em", "text-anchor": "end"}, label))
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        place = _px(x(tick))
        parts.append(element("line", {"class": "axis", "x1": place, "x2": place, "y1": bottom, "y2": bottom + 4}))
        parts.append(element("text", {"x": place, "y": bottom + 18, "text-anchor": "middle"}, label))
    parts.append(element("line", {"class": "axis", "x1": _LEFT, "x2": right, "y1": bottom, "y2": bottom}))
    parts.append(element("text", {"x": right, "y": axes.height - 6, "text-anchor": "end"}, axes.x_label))
    parts.append(element("text", {"class": "chart-title", "x": 0, "y": 12, "dy": "0.32em"}, axes.y_label))
    return join(parts)


def _lines(series: Sequence[Series], x: Scale, y: Scale, axes: Axes) -> Html:
    """The lines in a picture of their own, which cuts off what lies above the frame."""
    height = axes.height - _TOP
    box: dict[str, str | float] = {
        "y": _TOP,
        "width": axes.width,
        "height": height,
        "viewBox": f"0 {_TOP} {axes.width} {height}",
    }
    return element("svg", box, *(_line(one, x, y) for one in series))


def _line(series: Series, x: Scale, y: Scale) -> Html:
    runs = [_thin(run) for run in _runs(series)]
    colour = f"c{series.colour}"
    path = "".join("M" + "L".join(f"{_px(x(a))} {_px(y(b))}" for a, b in run) for run in runs if len(run) > 1)
    alone = [run[0] for run in runs if len(run) == 1]
    marked = [point for run in runs for point in run] if series.style == "points" else alone
    line = element("path", {"class": f"series {series.style} {colour}", "d": path}) if path else ""
    return join([line, *(_dot(_px(x(a)), _px(y(b)), colour) for a, b in marked)])


def _dot(x: str, y: str, colour: str) -> Html:
    return element("circle", {"class": f"dot {colour}", "cx": x, "cy": y, "r": 3})


def _runs(series: Series) -> list[list[tuple[float, float]]]:
    """The stretches between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in zip(series.x, series.y, strict=True):
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _thin(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most four points of each group, first, lowest, highest and last, in their order."""
    if len(run) <= 4 * _COLUMNS:
        return run
    size = math.ceil(len(run) / _COLUMNS)
    kept = []
    for start in range(0, len(run), size):
        group = range(start, min(start + size, len(run)))
        low, high = min(group, key=lambda i: run[i][1]), max(group, key=lambda i: run[i][1])
        kept += [run[i] for i in sorted({group[0], low, high, group[-1]})]
    return kept


def _legend(series: Sequence[Series], axes: Axes) -> Html:
    """Names beside samples of the lines, after the upright axis's label; needless for one line."""
    named = [one for one in series if one.style != "faint"]
    parts, place = [], 7.5 * len(axes.y_label) + 32
    for one in named if len(named) > 1 else []:
        start, stop = _px(place), _px(place + 20)
        parts.append(element("line", {"class": f"series c{one.colour}", "x1": start, "x2": stop, "y1": 12, "y2": 12}))
        if one.style == "points":
            parts.append(_dot(_px(place + 10), "12", f"c{one.colour}"))
        parts.append(element("text", {"class": "legend", "x": _px(place + 27), "y": 12, "dy": "0.32em"}, one.name))
        place += 27 + 7 * len(one.name) + 24
    return join(parts)


def _probes(series: Sequence[Series], x: Scale, y: Scale, axes: Axes) -> Html:
    """Upright strips that light up under the pointer: a line, the points on it, and their values in words."""
    named = [one for one in series if one.style != "faint"] or list(series)
    points = [sorted((a, b) for a, b in zip(one.x, one.y, strict=True) if math.isfinite(b)) for one in named]
    places = sorted({a for one in points for a, _ in one})
    places = places[:: math.ceil(len(places) / _PROBES)]
    edges = [x.start, *((x(a) + x(b)) / 2 for a, b in pairwise(places)), x.stop]
    parts = []
    for place, left, right in zip(places, edges[:-1], edges[1:], strict=True):
        low, high = x.inverse(left), x.inverse(right)
        found = [_nearest(one, place, low, high) for one in points]
        says = [f"{one.name} {compact(p[1], 4)}" for one, p in zip(named, found, strict=True) if p]
        text = " · ".join([f"{axes.x_label} {compact(place, 4)}", *says])
        mark = _px(x(place))
        parts.append(
            element(
                "g",
                {"class": "probe"},
                element("rect", {"x": _px(left), "y": _TOP, "width": _px(right - left), "height": y.start - _TOP}),
                element("line", {"x1": mark, "x2": mark, "y1": _TOP, "y2": _px(y.start)}),
                *(
                    _dot(_px(x(p[0])), _px(y(p[1])), f"c{one.colour}")
                    for one, p in zip(named, found, strict=True)
                    if p and p[1] <= y.high
                ),
                element("text", {"x": axes.width - _RIGHT, "y": 12, "dy": "0.32em"}, text),
            )
        )
    return join(parts)


def _nearest(
    points: Iterable[tuple[float, float]], place: float, low: float, high: float
) -> tuple[float, float] | None:
    """The point nearest to `place` among those within the strip."""
    inside = [point for point in points if low <= point[0] <= high]
    return min(inside, key=lambda point: abs(point[0] - place), default=None)


def _summary(series: Sequence[Series], axes: Axes) -> str:
    """The chart in words, for those who do not see it."""
    said = []
    for one in series:
        values = [value for value in one.y if math.isfinite(value)]
        if one.style != "faint":
            said.append(f"{one.name} from {compact(values[0], 4)} to {compact(values[-1], 4)}")
    return f"{axes.y_label} against {axes.x_label}: " + ", ".join(said)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
