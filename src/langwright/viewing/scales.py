"""Axes: from values to places on a picture, with round tick values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langwright.viewing.text import compact

_DECIMALS = 5  # ticks that need as many are written with an exponent


@dataclass(frozen=True)
class Scale:
    """Maps `low` to the pixel `start` and `high` to the pixel `stop`, evenly or by logarithm."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values inside the scale."""
        return log_ticks(self.low, self.high, count) if self.log else nice_ticks(self.low, self.high, count)


def fit(values: Iterable[float], start: float, stop: float, log: bool = False, zero: bool = False) -> Scale:
    """A scale that holds all finite values with a little room; positive ones alone when `log`.

    zero: begin at 0. One value, or none, still makes a scale.
    """
    usable = [value for value in values if math.isfinite(value) and not (log and value <= 0)]
    low, high = (min(usable), max(usable)) if usable else (1.0, 1.0)
    if log:
        room = (high / low) ** 0.04 if high > low else 1.5
        return Scale(low / room, high * room, start, stop, log=True)
    if zero:
        low = min(low, 0.0)
    room = 0.04 * (high - low) if high > low else _half(high)
    return Scale(low if zero and low == 0 else low - room, high + room, start, stop)


def span(values: Iterable[float], start: float, stop: float) -> Scale:
    """A scale from the smallest to the largest finite value, without room; for what runs along the bottom."""
    usable = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(usable), max(usable)
    return Scale(low, high, start, stop) if high > low else Scale(low - _half(low), low + _half(low), start, stop)


def _half(value: float) -> float:
    """The room on either side of a value that stands alone."""
    return 0.5 * abs(value) or 0.5


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`, about `count` of them."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values for a logarithmic scale: powers of ten and, where there is room, what lies between."""
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    choices = [
        [tick for decade in decades for factor in factors if low <= (tick := factor * 10.0**decade) <= high]
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
    ]
    best = min(choices, key=lambda ticks: abs(len(ticks) - count))
    return best if len(best) > 1 else nice_ticks(low, high, count)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text in one unit (none, k, M or B), with just enough decimals to say them exactly; 0 as "0"."""
    largest = max(map(abs, ticks), default=0.0)
    scale, name = next(((s, n) for s, n in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if largest >= s), (1.0, ""))
    values = [tick / scale for tick in ticks]
    decimals = next((d for d in range(_DECIMALS) if all(_says(value, d) for value in values)), _DECIMALS)
    if decimals == _DECIMALS:
        return [compact(tick) for tick in ticks]
    return [f"{value:.{decimals}f}{name}" if value else "0" for value in values]


def _says(value: float, decimals: int) -> bool:
    return abs(round(value, decimals) - value) <= 1e-9 * abs(value)
