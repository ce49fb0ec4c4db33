"""Numbers and tokens as people read them."""

import math

_NAMED = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "Ġ": "·", "▁": "·", "Ċ": "↵", "ĉ": "⇥"}
_CONTROL_PICTURES = 0x2400  # U+2400 SYMBOL FOR NULL, and so on in the order of the control characters


def compact(value: float, digits: int = 3) -> str:
    """A number in `digits` significant digits: 1.24, 310, 12.3k, 4.56M, 7.8B; below a thousandth as 3e-4."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    for scale, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= scale * (1 - 0.5 * 10.0**-digits):
            return _significant(value / scale, digits) + name
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return _significant(value, digits)


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
    return "".join(_picture(letter) for letter in token.removesuffix("</w>"))


def printable(text: str) -> str:
    """Text whose control characters, newline and tab excepted, are pictures, and whose lone surrogates are U+FFFD."""
    return "".join(letter if letter in "\n\t" else _harmless(letter) for letter in text)


def _significant(value: float, digits: int) -> str:
    leading = math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{max(0, digits - 1 - leading)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _picture(letter: str) -> str:
    return _NAMED.get(letter) or _harmless(letter)


def _harmless(letter: str) -> str:
    code = ord(letter)
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if code == 0x7F:
        return "␡"
    if 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000 or code in (0xFFFE, 0xFFFF):
        return "\N{REPLACEMENT CHARACTER}"
    if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069:  # they would turn the page's own text around
        return "\N{REPLACEMENT CHARACTER}"
    return letter
