"""The order of samples is a permutation, the same for every number of ranks, and never changes."""

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from langwright.data.order import Layout, shuffled, windows_of
from refusals import refused

FROZEN = Path(__file__).parent / "fixtures" / "order-v1.json"


@given(count=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_each_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    order = shuffled(np.arange(count), count, seed, epoch)
    assert sorted(order.tolist()) == list(range(count))


@given(count=st.integers(2**31, 2**45), data=st.data())
def test_large_counts_stay_in_range_and_do_not_collide(count: int, data: st.DataObject) -> None:
    positions = np.unique(np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=50))))
    order = shuffled(positions, count, 0, 0)
    assert ((order >= 0) & (order < count)).all()
    assert len(np.unique(order)) == len(positions)


def test_seeds_and_epochs_differ_and_order_is_well_mixed() -> None:
    count = 10_000
    orders = [shuffled(np.arange(count), count, seed, epoch) for seed in range(3) for epoch in range(3)]
    for i, order in enumerate(orders):
        for other in [np.arange(count), *orders[:i]]:
            assert (order == other).mean() < 0.001
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.05
        neighbours = np.abs(np.diff(order)).mean() / count
        assert 0.31 < neighbours < 0.36  # a third, if neighbours land independently


@given(count=st.integers(1, 50), start=st.integers(0, 300), length=st.integers(1, 40))
def test_epochs_follow_each_other(count: int, start: int, length: int) -> None:
    samples = np.arange(start, start + length)
    one_by_one = [int(shuffled(np.array([s % count]), count, 7, s // count)[0]) for s in samples.tolist()]
    assert windows_of(samples, count, 7).tolist() == one_by_one


@given(step=st.integers(0, 10**9), share=st.integers(1, 8), world=st.sampled_from([1, 2, 4, 8]))
def test_ranks_share_each_step_in_order(step: int, share: int, world: int) -> None:
    ranks = [Layout(share * world, 0, rank=rank, world=world) for rank in range(world)]
    together = np.concatenate([layout.rows(step, 100)[0] for layout in ranks])
    assert together.tolist() == list(range(step * share * world, (step + 1) * share * world))


def test_a_batch_that_ranks_cannot_share_is_an_error() -> None:
    with refused("--batch-size 6", "4 ranks"):
        Layout(6, 0, world=4)


def test_the_order_is_the_one_of_the_format() -> None:
    for case in json.loads(FROZEN.read_text()):
        found = windows_of(np.array(case["samples"], np.int64), case["count"], case["seed"])
        assert found.tolist() == case["windows"]


def test_rows_of_like_length_share_a_batch() -> None:
    """The samples are those of the same steps, whatever the ranks, and most of the padding is gone."""
    lengths = np.random.default_rng(0).integers(1, 100, size=1000)
    whole = Layout(8, 3)
    steps = [whole.gathered(step, 1000, lengths.__getitem__) for step in range(125)]
    samples, rows = (np.concatenate(sides) for sides in zip(*steps, strict=True))
    assert sorted(samples[: 32 * 8]) == list(range(32 * 8))
    assert (windows_of(samples, 1000, 3) == rows).all()
    for step, (_, wanted) in enumerate(steps[:40]):
        ranks = [Layout(8, 3, rank=rank, world=2).gathered(step, 1000, lengths.__getitem__)[1] for rank in (0, 1)]
        assert (np.concatenate(ranks) == wanted).all()
    widths = [lengths[rows].max() * len(rows) for _, rows in steps]
    plain = [lengths[rows].max() * len(rows) for _, rows in (whole.rows(step, 1000) for step in range(125))]
    real = sum(lengths[rows].sum() for _, rows in steps)
    assert sum(widths) < 1.1 * real < 1.5 * real < sum(plain)
    means = [lengths[rows].mean() for _, rows in steps]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # short and long batches take turns at random


def test_few_rows_are_gathered_within_an_epoch() -> None:
    """A batch of a small file does not hold the same row again and again."""
    layout, lengths = Layout(8, 0), np.arange(40)
    for step in range(30):
        _, rows = layout.gathered(step, 40, lengths.__getitem__)
        assert len(set(rows.tolist())) == 8
    assert len(Layout(8, 0).gathered(0, 8, lengths.__getitem__)[0]) == 8
