"""Best fit decreasing: the published example, and what any packing must keep."""

from hypothesis import given
from hypothesis import strategies as st

from langwright.data.packing import pack


def test_the_worked_example() -> None:
    """Lengths 5, 2, 3, 1 in rows of 4, the 5 cut to 4: [4], [3, 1], [2] (TRL's trl/data_utils.py)."""
    lengths = [min(length, 4) for length in (5, 2, 3, 1)]
    assert [[lengths[i] for i in row] for row in pack(lengths, 4)] == [[4], [3, 1], [2]]


def test_the_fullest_row_with_room_is_chosen() -> None:
    assert pack([6, 5, 4, 4, 1], 10) == [[0, 2], [1, 3, 4]]
    assert pack([7, 6, 3], 10) == [[0, 2], [1]]


@given(st.lists(st.integers(0, 50), max_size=60))
def test_every_example_lies_in_one_row_that_holds_it(lengths: list[int]) -> None:
    rows = pack(lengths, 50)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 50 for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 50) * 2 + 1
    full = [sum(lengths[i] for i in row) for row in rows]
    assert all(a + b > 50 for n, a in enumerate(full) for b in full[n + 1 :])
