"""Amounts with their unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base.errors import UserError
from langwright.base.quantities import UNITS, Quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (500, 500, "steps"),
        ("500", 500, "steps"),
        ("500 steps", 500, "steps"),
        ("1 step", 1, "steps"),
        ("10k steps", 10_000, "steps"),
        ("10,000 steps", 10_000, "steps"),
        ("2 epochs", 2, "epochs"),
        ("0.5 epochs", 0.5, "epochs"),
        ("1m tokens", 1_000_000, "tokens"),
        ("1.5M tokens", 1_500_000, "tokens"),
        ("2b tokens", 2_000_000_000, "tokens"),
        ("10m", 600, "seconds"),
        ("90s", 90, "seconds"),
        ("1h", 3600, "seconds"),
        ("1h30m", 5400, "seconds"),
        ("1.5h", 5400, "seconds"),
        ("10 minutes", 600, "seconds"),
        ("1 day 2 hours", 93600, "seconds"),
    ],
)
def test_examples(text: str | int, value: float, unit: str) -> None:
    assert parse_quantity(text) == Quantity(value, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "many",
        "-5 steps",
        "1.5 steps",
        "1M",
        "10 metres",
        "1,00",
        "1..5h",
        "1h30",
        "nan",
        "inf",
        "1e3",
        "٣",
        "9" * 99,
    ],
)
def test_what_is_not_an_amount_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UserError, match=r'"500 steps".*"2 epochs".*"1m tokens".*"10m"'):
        parse_quantity(text)


def test_a_unit_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match='"2 epochs" is not an amount that fits here; write for example "10m"'):
        parse_quantity("2 epochs", units=("seconds",))


whole = st.integers(0, 10**15)
fraction = st.floats(0, 10**9, allow_nan=False)
quantities = st.one_of(
    st.builds(Quantity, whole, st.sampled_from(["steps", "tokens"])),
    st.builds(Quantity, st.one_of(whole, fraction), st.sampled_from(["epochs", "seconds"])),
)


@given(quantities)
def test_text_reads_back_as_the_same_amount(quantity: Quantity) -> None:
    if isinstance(quantity.value, float) and len(f"{quantity}") > 30:
        return  # more digits than anyone writes
    assert parse_quantity(str(quantity)) == quantity


@given(st.text(max_size=12))
def test_any_text_is_an_amount_or_a_user_error(text: str) -> None:
    try:
        quantity = parse_quantity(text)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert quantity.value >= 0
        assert quantity.unit in UNITS
