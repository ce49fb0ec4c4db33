"""Numbers and tokens as people read them."""

import math
from collections.abc import Mapping

_BLANKS = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "Ġ": "·", "▁": "·", "Ċ": "↵", "ĉ": "⇥"})
_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "␡"}
_BIDIRECTIONAL = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # they would reorder the page's own text
_SURROGATES = range(0xD800, 0xE000)
_HARMLESS = _CONTROLS | dict.fromkeys((*range(0x80, 0xA0), *_SURROGATES, 0xFFFE, 0xFFFF, *_BIDIRECTIONAL), "\ufffd")


def compact(value: float, digits: int = 3) -> str:
    """A number in `digits` significant digits: 1.24, 310, 12.3k, 4.56M, 7.8B; below a thousandth as 3e-4."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    for scale, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= scale * (1 - 0.5 * 10.0**-digits):
            return f"{value / scale:.{digits}g}{name}"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.{digits}g}"


def event_words(event: Mapping[str, object]) -> str:
    """What a notable event of a run says beside its step and name."""
    rest = {name: value for name, value in event.items() if name not in ("step", "event")}
    return ", ".join(str(value) if name == "detail" else f"{name} {value}" for name, value in rest.items())


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage: "0.04 %", "3.1 %", "42 %"."""
    if not math.isfinite(share):
        return "not finite"
    size = abs(share)
    decimals = 0 if size >= 0.1 or not size else 1 if size >= 0.01 else 2
    return f"{100 * share:.{decimals}f} %"


def visible(token: str) -> str:
    """A token with its blanks and control characters made visible on one line.

    Blanks written as byte-level BPE (Ġ, Ċ) and SentencePiece (▁) write them are understood; `</w>` is dropped.
    """
    return token.removesuffix("</w>").translate(_HARMLESS | _BLANKS)


def printable(text: str) -> str:
    """Text whose control characters, newline and tab excepted, are pictures, and whose lone surrogates are U+FFFD."""
    return text.translate(_HARMLESS)
