"""Amounts that carry their unit: "500 steps", "2 epochs", "1m tokens", "10m"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, get_args

from langwright.base.errors import UserError

Unit = Literal["steps", "epochs", "tokens", "seconds"]
UNITS: tuple[Unit, ...] = get_args(Unit)

_EXAMPLES: dict[Unit, str] = {
    "steps": '"500 steps"',
    "epochs": '"2 epochs"',
    "tokens": '"1m tokens"',
    "seconds": '"10m", "90s" or "1h30m"',
}
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBER = r"(?:(?:\d{1,20}|\d{1,3}(?:[,_]\d{3})+)(?:\.\d{1,20})?|\.\d{1,20})"
_COUNT = re.compile(rf"({_NUMBER})\s*([kmbKMB]?)\s*(steps?|epochs?|tokens?)?", re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(?:s|m|h|d|seconds?|minutes?|hours?|days?)\s*)+", re.ASCII)
_DURATION_PART = re.compile(rf"({_NUMBER})\s*([smhd])")


@dataclass(frozen=True)
class Quantity:
    """An amount and its unit; `str()` gives text that `parse_quantity` reads back.

    value: never negative; whole for steps and tokens.
    unit: "steps", "epochs", "tokens" or "seconds".
    """

    value: int | float
    unit: Unit

    def __str__(self) -> str:
        number = f"{Decimal(repr(self.value)):f}"  # never 1e-05
        return f"{number}s" if self.unit == "seconds" else f"{number} {self.unit}"


def parse_quantity(text: str | int, units: Sequence[Unit] = UNITS, flag: str = "") -> Quantity:
    """Read an amount with its unit; only `units` are accepted. flag: the option, for errors.

    Counts take a scale (k, m, b for a thousand, a million, a billion): "500 steps", "1.5m tokens", "0.5 epochs".
    Durations are one or more numbers with s, m, h or d (or the whole word): "90s", "1h30m", "10 minutes". A number
    alone, int or text, is steps. Raises UserError with examples.
    """
    quantity = _parse(str(text).strip())
    if quantity is None or quantity.unit not in units:
        examples = ", ".join(_EXAMPLES[unit] for unit in units)
        shown = " ".join(str(text).split())
        raise UserError(f'{flag} "{shown}" is not an amount that fits here; write for example {examples}'.lstrip())
    return quantity


def _parse(text: str) -> Quantity | None:
    if _DURATION.fullmatch(text):
        total = sum(_exact(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
        return Quantity(_plain(Fraction(total)), "seconds")
    match = _COUNT.fullmatch(text)
    if match is None or (match[2] == "M" and match[3] is None):  # a million or minutes? better asked than guessed
        return None
    value = _exact(match[1]) * _SCALES[match[2].lower()]
    unit = next(unit for unit in UNITS if unit[0] == (match[3] or "steps")[0])
    return None if unit != "epochs" and value.denominator != 1 else Quantity(_plain(value), unit)


def _exact(number: str) -> Fraction:
    return Fraction(re.sub("[,_]", "", number))


def _plain(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
