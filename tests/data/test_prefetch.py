"""Prefetched batches are the same batches; errors arrive, and the thread ends."""

import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest
import torch

from langwright.data.prefetch import prefetch
from langwright.objectives.batch import TokenBatch


def batch_of(step: int) -> TokenBatch:
    ids = torch.tensor([[step]])
    return TokenBatch(ids, ids, torch.ones(1, 1))


def close(batches: Iterator[TokenBatch]) -> None:
    cast("torch.Generator", batches).close()  # type: ignore[attr-defined]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def test_batches_come_in_order_from_the_first_step() -> None:
    batches = prefetch(batch_of, 7)
    assert [int(next(batches).ids) for _ in range(20)] == list(range(7, 27))
    close(batches)
    assert threads() == []


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_than_asked_for_are_made_ahead(ahead: int) -> None:
    made: list[int] = []
    enough = threading.Event()

    def make(step: int) -> TokenBatch:
        made.append(step)
        if len(made) == 3 + ahead:
            enough.set()
        return batch_of(step)

    batches = prefetch(make, 0, ahead=ahead)
    for _ in range(3):
        next(batches)
    assert enough.wait(10)
    time.sleep(0.05)
    assert made == list(range(3 + ahead))
    close(batches)


def test_an_error_is_raised_where_its_batch_would_be_taken() -> None:
    def make(step: int) -> TokenBatch:
        if step == 2:
            raise ValueError("no step 2")
        return batch_of(step)

    batches = prefetch(make, 0)
    assert [int(next(batches).ids) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="no step 2"):
        next(batches)
    assert threads() == []


def test_leaving_the_loop_ends_the_thread() -> None:
    for batch in prefetch(batch_of, 0):
        if int(batch.ids) == 3:
            break
    del batch
    assert threads() == []
