"""Prefetched batches are the same batches; errors arrive, and the thread ends."""

import itertools
import threading
import time
from collections.abc import Generator
from typing import cast

import pytest

from langwright.data.prefetch import prefetch


def close(items: object) -> None:
    cast("Generator[int]", items).close()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_items_come_in_order() -> None:
    items = prefetch(itertools.count(7))
    assert [next(items) for _ in range(20)] == list(range(7, 27))
    close(items)
    assert threads() == []
    assert list(prefetch("abc")) == ["a", "b", "c"]
    assert list(prefetch([])) == []


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_than_asked_for_are_made_ahead(ahead: int) -> None:
    made: list[int] = []
    enough = threading.Event()

    def make(step: int) -> int:
        made.append(step)
        if len(made) == 3 + ahead:
            enough.set()
        return step

    items = prefetch(map(make, itertools.count()), ahead)
    for _ in range(3):
        next(items)
    assert enough.wait(10)
    time.sleep(0.05)
    assert made == list(range(3 + ahead))
    close(items)


def test_an_error_is_raised_where_its_item_would_be_taken() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("no step 2")
        return step

    items = prefetch(map(make, itertools.count()))
    assert [next(items) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="no step 2"):
        next(items)
    assert threads() == []
