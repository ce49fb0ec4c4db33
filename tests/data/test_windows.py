"""Windows cover every target of every document, inside its bounds, and say which they repeat."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from langwright.data.windows import Windows

LENGTHS = st.lists(st.integers(0, 23), max_size=12)


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.array([0, *np.cumsum(lengths)], np.int64)


def test_a_table_worked_by_hand() -> None:
    # Documents of 9, 1, 4, 0 and 5 tokens have 8, 0, 3, 0 and 4 targets; context 3.
    windows = Windows(offsets_of([9, 1, 4, 0, 5]), 3)
    places = windows.places(np.arange(len(windows)))
    assert places.starts.tolist() == [0, 3, 5, 10, 14, 15]
    assert places.lengths.tolist() == [3, 3, 3, 3, 3, 3]
    assert places.repeated.tolist() == [0, 0, 1, 0, 0, 2]

    short = Windows(offsets_of([3, 6]), 4).places(np.arange(3))
    assert short.starts.tolist() == [0, 3, 4]
    assert short.lengths.tolist() == [2, 4, 4]
    assert short.repeated.tolist() == [0, 0, 3]


@given(lengths=LENGTHS, context=st.integers(1, 8), crossing=st.booleans())
def test_every_target_is_covered_once_without_repeats(lengths: list[int], context: int, crossing: bool) -> None:
    offsets = offsets_of(lengths)
    windows = Windows(offsets, context, crossing=crossing)
    places = windows.places(np.arange(len(windows)))
    counted: Counter[int] = Counter()
    for start, length, repeated in zip(places.starts, places.lengths, places.repeated, strict=True):
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
    windows = Windows(offsets_of(lengths), context)
    if not len(windows):
        return
    numbers = np.array(data.draw(st.lists(st.integers(0, len(windows) - 1), max_size=5)), np.int64)
    all_places, places = windows.places(np.arange(len(windows))), windows.places(numbers)
    assert places.starts.tolist() == all_places.starts[numbers].tolist()
    assert places.lengths.tolist() == all_places.lengths[numbers].tolist()
    assert places.repeated.tolist() == all_places.repeated[numbers].tolist()


def test_only_the_last_window_of_a_document_is_shifted() -> None:
    windows = Windows(offsets_of([100]), 8)  # 99 targets: 12 full windows and 3 targets more
    places = windows.places(np.arange(len(windows)))
    assert places.starts.tolist() == [*range(0, 96, 8), 91]
    assert places.repeated.tolist() == [0] * 12 + [5]
