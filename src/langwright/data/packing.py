"""Several short examples in one row: best fit, longest first."""

from bisect import bisect_left
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The numbers of the examples that share a row, so that no row holds more than `capacity`.

    Best fit decreasing: each example, longest first and equal ones in their order, goes into the fullest row that has
    room for it. At most 11/9 of the rows of the best packing are needed, and one more (Johnson, 1973). A row's numbers
    stand in the order in which they came.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # the room that is left -> the rows that have it, the last opened taken first
    rooms: list[int] = []  # its keys in order
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(rooms, lengths[number])
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        rows[row].append(number)
        left = room - lengths[number]
        if left not in open_rows:
            rooms.insert(bisect_left(rooms, left), left)
            open_rows[left] = []
        open_rows[left].append(row)
    return rows
