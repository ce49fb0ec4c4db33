"""Charts draw what they are given: every value in its place, gaps as gaps, and nothing at all without a fuss."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.viewing.charts import Axes, Bar, Series, bars, line_chart
from langwright.viewing.text import percent
from viewing.markup import HOSTILE, check_self_contained, parse, words

AXES = Axes("step", "loss", width=500, height=300)
NAN = math.nan


def paths(markup: str) -> list[str]:
    return [path.get("d", "") for path in parse(markup).iter("path")]


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", path)]


def drawn_dots(markup: str) -> int:
    """Markers that are always seen: not those under the pointer."""
    root = parse(markup)
    hidden = sum(len(list(group.iter("circle"))) for group in root.iter("g") if group.get("class") == "probe")
    return len(list(root.iter("circle"))) - hidden


def test_values_stand_in_their_places() -> None:
    (path,) = paths(line_chart([Series("loss", [0, 1, 3], [4.0, 2.0, 1.0])], AXES))
    (x0, y0), (x1, y1), (x2, y2) = points(path)
    assert x0 == 54
    assert x2 == 488
    assert x1 - x0 == pytest.approx((x2 - x0) / 3, abs=0.1)
    assert y0 < y1 < y2
    assert y1 - y0 == pytest.approx(2 * (y2 - y1), abs=0.2)


def test_gaps_break_the_line_and_lone_points_become_dots() -> None:
    shown = line_chart([Series("loss", [0, 1, 2, 3, 4, 5, 6, NAN], [1, 2, NAN, 3, math.inf, 4, 5, 6])], AXES)
    (path,) = paths(shown)
    assert path.count("M") == 2
    assert len(points(path)) == 4
    assert drawn_dots(shown) == 1


@pytest.mark.parametrize("values", [[], [NAN], [math.inf, -math.inf]])
def test_nothing_to_draw_is_nothing(values: list[float]) -> None:
    assert line_chart([Series("loss", list(range(len(values))), values)], AXES) == ""


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6) | st.just(NAN), st.floats(-1e6, 1e6) | st.just(NAN)), max_size=20),
    st.booleans(),
)
def test_any_series_makes_a_well_formed_picture(pairs: list[tuple[float, float]], zero: bool) -> None:
    series = [Series("a", [x for x, _ in pairs], [y for _, y in pairs], "points"), Series("b", [], [])]
    shown = line_chart(series, Axes("x", "y", zero=zero))
    assert "nan" not in shown
    assert "inf" not in shown
    parse(shown or "<p/>")


def test_pointing_at_a_place_reads_its_values() -> None:
    shown = line_chart(
        [Series("training", [1, 2, 3], [3.0, 2.0, 1.5]), Series("validation", [2], [2.25], "points", 1)], AXES
    )
    said = ["".join(group.itertext()).strip() for group in parse(shown).iter("g")]
    assert said == ["step 1 · training 3", "step 2 · training 2 · validation 2.25", "step 3 · training 1.5"]


def test_pointer_strips_cover_the_frame_and_stay_few() -> None:
    shown = line_chart([Series("loss", list(range(5000)), np.linspace(3, 1, 5000).tolist())], AXES)
    strips = [(float(r.get("x", "")), float(r.get("width", ""))) for r in parse(shown).iter("rect")]
    assert len(strips) <= 120
    assert strips[0][0] == 54
    assert sum(width for _, width in strips) == pytest.approx(488 - 54, abs=len(strips) * 0.06)


def test_long_series_are_thinned_but_keep_their_spikes() -> None:
    values = [1.0] * 100_000
    values[61_803] = 9.0
    (path,) = paths(line_chart([Series("loss", list(range(100_000)), values)], AXES))
    found = points(path)
    assert len(found) <= 2001
    assert min(y for _, y in found) == pytest.approx(34 + (300 - 44 - 34) * 0.04 / 1.08, abs=0.2)
    assert found[0][0] == 54
    assert found[-1][0] == 488


def test_what_is_above_the_top_leaves_the_frame() -> None:
    shown = parse(line_chart([Series("loss", [0, 1, 2], [10.0, 2.0, 1.0])], Axes("x", "y", top=3.0)))
    frame = next(inner for inner in shown.iter("svg") if inner.get("viewBox", "").startswith("0 34"))
    path = frame.find("path")
    assert path is not None
    assert points(path.get("d", ""))[0][1] < 34
    assert points(path.get("d", ""))[1][1] > 34


def test_charts_speak_to_those_who_do_not_see_them() -> None:
    picture = next(parse(line_chart([Series("training", [1, 2], [3.0, 1.25])], AXES)).iter("svg"))
    assert picture.get("role") == "img"
    assert picture.get("aria-label") == "loss against step: training from 3 to 1.25"


def test_legend_names_lines_when_there_are_several() -> None:
    faint, one, two = Series("raw", [1, 2], [1, 2], "faint"), Series("a", [1, 2], [1, 2]), Series("b", [1], [2])

    def legend(*series: Series) -> list[str | None]:
        texts = parse(line_chart(series, AXES)).iter("text")
        return [text.text for text in texts if text.get("class") == "legend"]

    assert legend(faint, one, two) == ["a", "b"]
    assert legend(faint, one) == []


def test_hostile_names_stay_text() -> None:
    check_self_contained(line_chart([Series(HOSTILE, [1, 2], [1, 2])] * 2, Axes(HOSTILE, HOSTILE)))


def test_bars_are_as_long_as_their_values() -> None:
    rows = [Bar("a", 0.25), Bar("b", 1.0, "well done", ours=True), Bar("c", 0.0), Bar("d", NAN)]
    shown = bars(rows, ("Name", "Share", "Note"), percent)
    fills = [span.get("style") for span in parse(shown).iter("span") if span.get("class") == "fill"]
    assert fills == ["width:25.00%", "width:100.00%"]
    assert all(text in words(shown) for text in ("25 %", "well done", "Note", "not finite"))
    assert [row.get("class") for row in parse(shown).findall(".//tbody/tr")] == [None, "ours", None, None]
    assert "Note" not in words(bars(rows[:1], ("Name", "Share", "Note")))
