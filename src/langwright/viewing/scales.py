"""Axes: from values to places on a picture, with round tick values."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from langwright.viewing.text import compact

_DECIMALS = 5  # ticks that need as many are written with an exponent


@dataclass(frozen=True)
class Scale:
    """A linear scale that takes `low` to the pixel `start` and `high` to the pixel `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, count: int) -> dict[float, str]:
        """Multiples of 1, 2 or 5 times a power of ten inside the scale, about `count` of them, each with its label.

        Labels have one unit (none, k, M or B) and just enough decimals to be exact.
        """
        rough = (self.high - self.low) / max(count, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        ticks = [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]
        largest = max(map(abs, ticks), default=0.0)
        unit, name = next(((s, n) for s, n in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if largest >= s), (1.0, ""))
        exact = (d for d in range(_DECIMALS) if all(math.isclose(round(t / unit, d), t / unit) for t in ticks))
        decimals = next(exact, None)
        if decimals is None:
            return {tick: compact(tick) for tick in ticks}
        return {tick: f"{tick / unit:.{decimals}f}{name}" if tick else "0" for tick in ticks}


def fit(values: Iterable[float], start: float, stop: float, room: float = 0.04, zero: bool = False) -> Scale:
    """A scale that holds all finite values; one value, or none, still makes a scale.

    Args:
        values: what is to be shown.
        start: the pixel of the lowest value.
        stop: the pixel of the highest value.
        room: the share of the range that is left free at either end.
        zero: whether the scale begins at 0.
    """
    finite = [value for value in values if math.isfinite(value)] or [1.0]
    low, high = min(finite), max(finite)
    if zero:
        low = min(low, 0.0)
    room = room * (high - low) if high > low else 0.5 * abs(high) or 0.5
    return Scale(low if zero and low == 0 else low - room, high + room, start, stop)
