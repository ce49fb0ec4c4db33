"""Numbers and tokens as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.viewing.text import compact, percent, printable, visible


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.5, "1.5"),
        (2.34567, "2.35"),
        (999.4, "999"),
        (999.6, "1k"),
        (12_345, "12.3k"),
        (999_999_999, "1B"),
        (-12_345, "-12.3k"),
        (3e-4, "3e-4"),
        (math.nan, "not finite"),
    ],
)
def test_compact(value: float, text: str) -> None:
    assert compact(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.0004, "0.04 %"), (0.031, "3.1 %"), (0.42, "42 %"), (1, "100 %")]
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("token", "text"),
    [("Ġdef", "·def"), ("▁the", "·the"), ("ĊĊ", "↵↵"), (" \t\n", "·⇥↵"), ("low</w>", "low"), ("\x1b[2J", "␛[2J")],
)
def test_visible(token: str, text: str) -> None:
    assert visible(token) == text


@given(st.text(st.characters()))
def test_printable_text_is_harmless(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown) == len(text)
    assert all(letter in "\n\t" or letter.isprintable() or ord(letter) >= 0xA0 for letter in shown)
    assert "\n" not in visible(text)


def test_printable_text_cannot_turn_the_page_around() -> None:
    assert printable("a\u202eb\u2066c\x00\ud800") == "a\ufffdb\ufffdc␀\ufffd"
