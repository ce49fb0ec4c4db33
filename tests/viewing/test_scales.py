"""Axes hold their values and carry round ticks."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langwright.viewing.scales import Scale, fit

values = st.floats(-1e9, 1e9, allow_nan=False)


@given(values, values, st.integers(2, 12))
def test_nice_ticks_are_round_inside_and_neither_few_nor_many(low: float, high: float, count: int) -> None:
    assume(high - low > 1e-6 * max(1, abs(low), abs(high)))
    ticks = list(Scale(low, high, 0, 1).ticks(count))
    steps = {round(b - a, 12) for a, b in pairwise(ticks)}
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert len(steps) <= 1 or max(steps) - min(steps) < 1e-6 * step
    assert any(leading == pytest.approx(digit, rel=1e-4) for digit in (1, 2, 5, 10))
    assert all(low - 1e-6 * step <= tick <= high + 1e-6 * step for tick in ticks)
    assert count / 2.6 - 1 <= len(ticks) <= count + 1


@pytest.mark.parametrize(
    ("low", "high", "count", "labels"),
    [
        (0, 1, 5, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (1.63, 2.88, 7, ["1.8", "2.0", "2.2", "2.4", "2.6", "2.8"]),
        (-3, 3, 3, ["-2", "0", "2"]),
        (0, 0.0029, 3, ["0", "0.001", "0.002"]),
        (0, 10_100, 2, ["0", "10k"]),
        (400_000, 1_600_000, 3, ["0.5M", "1.0M", "1.5M"]),
        (9e-7, 2.1e-6, 2, ["1e-6", "2e-6"]),
    ],
)
def test_ticks_of_known_ranges(low: float, high: float, count: int, labels: list[str]) -> None:
    assert list(Scale(low, high, 0, 1).ticks(count).values()) == labels


@given(st.lists(st.floats(-1e100, 1e100), max_size=8), st.sampled_from([0, 0.04]), st.booleans())
def test_fit_always_makes_a_usable_scale(data: list[float], room: float, zero: bool) -> None:
    scale = fit(data, 100, 0, room, zero)
    assert scale.low < scale.high
    assert all(math.isfinite(scale(value)) for value in data)


def test_scales_take_ends_to_ends() -> None:
    assert Scale(0, 4, 100, 0)(1) == 75
    assert fit([2, 4], 0, 10, zero=True).low == 0
    assert (fit([5], 0, 10).low, fit([5], 0, 10).high) == (2.5, 7.5)
    assert (fit([2, 4], 0, 10, room=0).low, fit([], 0, 10).high) == (2, 1.5)
