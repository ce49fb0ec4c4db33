"""Windows cover every target of every document, inside its bounds, and say which they repeat."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from langwright.data.windows import Windows

from .conftest import tokens_of

LENGTHS = st.lists(st.integers(0, 23), max_size=12)


def windows_over(lengths: list[int], context: int, crossing: bool = False) -> Windows:
    return Windows(tokens_of([[0] * length for length in lengths]), context, crossing)


def test_a_table_worked_by_hand() -> None:
    # Documents of 9, 1, 4, 0 and 5 tokens have 8, 0, 3, 0 and 4 targets; context 3.
    windows = windows_over([9, 1, 4, 0, 5], 3)
    starts, lengths, repeated = windows.places(np.arange(len(windows)))
    assert starts.tolist() == [0, 3, 5, 10, 14, 15]
    assert lengths.tolist() == [3, 3, 3, 3, 3, 3]
    assert repeated.tolist() == [0, 0, 1, 0, 0, 2]
    short = windows_over([3, 6], 4).places(np.arange(3))
    assert [each.tolist() for each in short] == [[0, 3, 4], [2, 4, 4], [0, 0, 3]]


@given(lengths=LENGTHS, context=st.integers(1, 8), crossing=st.booleans())
def test_every_target_is_covered_once_without_repeats(lengths: list[int], context: int, crossing: bool) -> None:
    offsets = np.array([0, *np.cumsum(lengths)], np.int64)
    windows = windows_over(lengths, context, crossing)
    counted: Counter[int] = Counter()
    for start, length, repeated in zip(*windows.places(np.arange(len(windows))), strict=True):
        targets = range(start + 1, start + 1 + length)
        counted.update(targets[repeated:])
        assert 0 <= repeated < length <= context
        # A window lies in one document, first input and last target included.
        owner = np.searchsorted(offsets, [start, start + length], side="right")
        assert crossing or owner[0] == owner[1]
        assert length == context or not crossing or len(windows) == 1
    bounds = [0, sum(lengths)] if crossing else offsets.tolist()
    expected = [target for a, b in itertools.pairwise(bounds) for target in range(a + 1, b)]
    assert counted == Counter(expected)


@given(lengths=LENGTHS, context=st.integers(1, 8), data=st.data())
def test_any_windows_may_be_asked_for_in_any_order(lengths: list[int], context: int, data: st.DataObject) -> None:
    windows = windows_over(lengths, context)
    numbers = np.array(data.draw(st.lists(st.integers(0, max(0, len(windows) - 1)), max_size=5)), np.int64)
    if len(windows):
        for each, of_all in zip(windows.places(numbers), windows.places(np.arange(len(windows))), strict=True):
            assert each.tolist() == of_all[numbers].tolist()
