"""Axes hold their values and carry round ticks."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langwright.viewing.scales import Scale, fit, log_ticks, nice_ticks, span, tick_labels

values = st.floats(-1e9, 1e9, allow_nan=False)


@given(values, values, st.integers(2, 12))
def test_nice_ticks_are_round_inside_and_neither_few_nor_many(low: float, high: float, count: int) -> None:
    assume(high - low > 1e-6 * max(1, abs(low), abs(high)))
    ticks = nice_ticks(low, high, count)
    steps = {round(b - a, 12) for a, b in pairwise(ticks)}
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert len(steps) <= 1 or max(steps) - min(steps) < 1e-6 * step
    assert any(leading == pytest.approx(digit, rel=1e-4) for digit in (1, 2, 5, 10))
    assert all(low - 1e-6 * step <= tick <= high + 1e-6 * step for tick in ticks)
    assert count / 2.6 - 1 <= len(ticks) <= count + 1


def test_nice_ticks_of_known_ranges() -> None:
    assert nice_ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert nice_ticks(1.63, 2.88, 7) == [1.8, 2.0, 2.2, 2.4, 2.6, 2.8]
    assert nice_ticks(-3, 3, 3) == [-2, 0, 2]


def test_log_ticks() -> None:
    assert log_ticks(0.9, 1100, 4) == [1, 10, 100, 1000]
    assert log_ticks(1.8, 10.5, 6) == [2, 3, 5, 7, 10]
    assert all(2.1 <= tick <= 2.3 for tick in log_ticks(2.1, 2.3, 5))


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([1.8, 2.0, 2.2], ["1.8", "2.0", "2.2"]),
        ([0, 0.001, 0.002], ["0", "0.001", "0.002"]),
        ([0, 5_000, 10_000], ["0", "5k", "10k"]),
        ([500_000, 1_000_000, 1_500_000], ["0.5M", "1.0M", "1.5M"]),
        ([-20, 0, 20], ["-20", "0", "20"]),
        ([1e-6, 2e-6], ["1e-6", "2e-6"]),
        ([], []),
    ],
)
def test_tick_labels(ticks: list[float], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels


@given(st.lists(st.floats(-1e100, 1e100), max_size=8), st.booleans(), st.booleans())
def test_fit_always_makes_a_usable_scale(data: list[float], log: bool, zero: bool) -> None:
    usable = [value for value in data if not log or value > 1e-100]
    for scale in (fit(usable, 100, 0, log, zero), span(usable, 100, 0)):
        assert scale.low < scale.high
        assert all(math.isfinite(scale(value)) for value in usable if not log or scale.log)


def test_scales_map_ends_to_ends() -> None:
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    assert Scale(0, 4, 100, 0)(1) == 75
    assert fit([2, 4], 0, 10, zero=True).low == 0
    assert (fit([5], 0, 10).low, fit([5], 0, 10).high) == (2.5, 7.5)
    assert (span([5], 0, 10).low, span([], 0, 10).high) == (2.5, 0.5)
