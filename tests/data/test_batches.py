"""Batches are functions of their step, and evaluation counts every target once."""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langwright.data.order import ROUND, Layout
from langwright.data.shards import Tokens
from langwright.data.supply import Batches, evaluation_batches
from langwright.data.windows import Windows
from langwright.objectives.batch import TokenBatch
from refusals import refused

from .conftest import tokens_of


def numbered(lengths: list[int]) -> Tokens:
    """Documents whose ids are their places among all tokens, from 1: each id occurs once."""
    ids = iter(range(1, sum(lengths) + 1))
    return tokens_of([[next(ids) for _ in range(length)] for length in lengths])


def rows(batch: TokenBatch) -> list[tuple[list[int], list[int], list[float]]]:
    return list(zip(batch.ids.tolist(), batch.targets.tolist(), batch.weights.tolist(), strict=True))


def evaluated(tokens: Tokens, context: int, batch_size: int, limit: int | None = None) -> Iterator[TokenBatch]:
    return evaluation_batches(Windows(tokens, context, once=True), batch_size, limit)


def test_windows_as_tensors() -> None:
    batch = next(evaluated(numbered([6, 3]), 4, 8))
    assert rows(batch) == [
        ([1, 2, 3, 4], [2, 3, 4, 5], [1, 1, 1, 1]),
        ([2, 3, 4, 5], [3, 4, 5, 6], [0, 0, 0, 1]),
        ([7, 8, 0, 0], [8, 9, 0, 0], [1, 1, 0, 0]),
    ]
    assert (batch.ids.dtype, batch.targets.dtype, batch.weights.dtype) == (torch.int64, torch.int64, torch.float32)
    assert batch.mask is not None
    assert batch.mask.tolist() == [[True] * 4, [True] * 4, [True, True, False, False]]
    assert Batches(Windows(numbered([30]), 4), Layout(4, 0)).batch(0).mask is None
    assert batch.samples is not None
    assert batch.samples.tolist() == [0, 1, 2]


@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    context=st.integers(1, 7),
    batch_size=st.integers(1, 5),
)
def test_evaluation_counts_every_target_once(lengths: list[int], context: int, batch_size: int) -> None:
    tokens = numbered(lengths)
    if max(lengths) < 2:
        with refused("too little text"):
            evaluated(tokens, context, batch_size)
        return
    counted: Counter[int] = Counter()
    for batch in evaluated(tokens, context, batch_size):
        assert (batch.targets - batch.ids)[batch.weights > 0].eq(1).all()
        counted.update(batch.targets[batch.weights > 0].tolist())
    starts = set(tokens.offsets[:-1].tolist())
    assert counted == Counter(i + 1 for i in range(len(tokens)) if i not in starts)


@given(limit=st.integers(1, 40))
def test_a_limited_evaluation_is_spread_over_the_text(limit: int) -> None:
    tokens = numbered([50, 50, 101])
    whole = list(range(50 // 5 * 2 + 20))
    samples = [s for batch in evaluated(tokens, 5, 3, limit) for s in batch.samples.tolist()]  # type: ignore[union-attr]
    assert len(samples) == len(set(samples)) == min(limit, len(whole))
    assert samples == sorted(samples)
    assert samples[0] == 0
    assert samples[-1] >= len(whole) - 1 - len(whole) // limit


def training(context: int = 4, crossing: bool = False, **changes: int) -> Batches:
    layout = Layout(**{"batch_size": 4, "seed": 1} | changes)
    return Batches(Windows(numbered([30, 3, 17, 41]), context, crossing), layout)


def test_an_epoch_shows_every_window_once() -> None:
    batches = training(batch_size=3)
    assert batches.windows == 8 + 1 + 4 + 10
    assert batches.tokens_per_step == 12
    seen = [row for step in range(23) for row in rows(batches.batch(step))]  # 69 samples: three epochs
    once = sorted(rows(next(evaluated(numbered([30, 3, 17, 41]), 4, 100))))
    for epoch in range(3):
        shown = sorted(seen[epoch * 23 : (epoch + 1) * 23])
        assert [row[:2] for row in shown] == [row[:2] for row in once]
    assert seen[:23] != seen[23:46]


def test_training_weighs_padding_alone_as_nothing() -> None:
    batches = training(batch_size=23)
    for ids, _, weights in rows(batches.batch(0)):
        assert weights == ([1, 1, 0, 0] if ids[0] == 31 else [1, 1, 1, 1])


def test_a_batch_is_a_function_of_its_step() -> None:
    batches, fresh = training(), training()
    order = [5, 0, 1000, 5]
    assert [rows(batches.batch(step)) for step in order] == [rows(fresh.batch(step)) for step in order]
    assert batches.batch(5).samples.tolist() == [20, 21, 22, 23]  # type: ignore[union-attr]
    assert rows(training(seed=2).batch(0)) != rows(batches.batch(0))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_see_the_same_batch(world: int) -> None:
    for step in range(12):
        parts = [training(rank=rank, world=world).batch(step) for rank in range(world)]
        assert [row for part in parts for row in rows(part)] == rows(training().batch(step))
        samples = [s for part in parts for s in part.samples.tolist()]  # type: ignore[union-attr]
        assert samples == list(range(step * 4, step * 4 + 4))


def test_crossing_windows_run_over_the_bounds_of_documents() -> None:
    batches = training(crossing=True, batch_size=23)
    assert batches.windows == 23  # 90 targets in windows of 4
    shown = sorted(row[0] for row in rows(batches.batch(0)))
    assert [29, 30, 31, 32] in shown
    assert shown[-1] == [87, 88, 89, 90]


def test_the_record_changes_with_what_decides_the_samples() -> None:
    records = [training(**c).record() for c in ({}, {"seed": 2}, {"batch_size": 8}, {"context": 5}, {"crossing": True})]
    assert len({str(record) for record in records}) == 5
    assert records[0]["version"] == 1
    assert training(rank=1, world=2).record() == records[0]


def test_too_little_text_says_how_much_there_is() -> None:
    with refused("5 rows of 8", "16", "--batch-size"):
        Batches(Windows(tokens_of([[1, 2, 3]] * 5), 8), Layout(16, 0))


@given(lengths=st.lists(st.integers(2, 400), min_size=4, max_size=30))
def test_rows_are_as_wide_as_the_longest_of_their_batch(lengths: list[int]) -> None:
    tokens, context = numbered(lengths), 256
    windows = Windows(tokens, context)
    batches = Batches(windows, Layout(4, 0))
    for batch in [*(batches.batch(step) for step in range(8)), *evaluated(tokens, context, 4)]:
        longest = int((batch.targets > 0).sum(1).max())
        assert batch.ids.shape[1] == min(context, -(-longest // ROUND) * ROUND)
    widths = [batch.ids.shape[1] for batch in evaluated(tokens, context, 4)]
    assert widths == sorted(widths, reverse=True)
    assert Batches(windows, Layout(4, 0, fixed=True)).batch(0).ids.shape == (4, context)
    shown = [Batches(windows, Layout(1, 0)).batch(step).weights.sum() for step in range(batches.windows)]
    assert batches.tokens_per_step == round(4 * float(sum(shown)) / batches.windows)
