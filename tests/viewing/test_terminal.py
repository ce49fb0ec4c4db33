"""Text pictures keep to their width and tell the truth."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.viewing.terminal import bars, sparkline


@pytest.mark.parametrize(
    ("values", "width", "picture"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([7, 0], 40, "█▁"),
        ([3], 40, "▁"),
        ([], 40, ""),
        ([5, 5, 5], 40, "▁▁▁"),
        ([1, math.nan, 2], 40, "▁×█"),
        ([math.nan, math.inf], 40, "××"),
        ([0, 0, 9, 9], 2, "▁█"),
        ([0, math.nan, 9, 9], 2, "▁█"),
    ],
)
def test_sparkline(values: list[float], width: int, picture: str) -> None:
    assert sparkline(values, width) == picture


def test_bars() -> None:
    assert bars([(" self", 0.5), ("\n", 0.25), ("x", 0.0)], 30) == [
        "·self   50.0 % ███████████████",
        "↵       25.0 % ███████▌",
        "x        0.0 %",
    ]


def test_bars_line_up_under_wide_and_long_labels() -> None:
    first, second, third = bars([("日本", 0.6), ("abcd", 0.3), ("e" * 90, 0.1)], 60)
    assert second.index("30.0") == first.index("60.0") + 2
    assert third.startswith("e" * 23 + "…")
    assert len(second) <= 60


def test_bars_of_nothing_and_of_nonsense() -> None:
    assert bars([]) == []
    assert bars([("a", math.nan), ("b", 0.0)], 30) == ["a      ?", "b    0.0 %"]


@given(st.lists(st.tuples(st.text(max_size=30), st.floats(0, 1)), max_size=8), st.integers(45, 120))
def test_bars_are_one_line_each(items: list[tuple[str, float]], width: int) -> None:
    lines = bars(items, width)
    assert len(lines) == len(items)
    assert all("\n" not in line and len(line) <= width for line in lines)
