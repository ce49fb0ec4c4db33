"""Noise is a function of seed and sample alone, loses nothing of the text, and takes as much as the papers say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from langwright.data.noise import Cut, Denoising, Masking, SpanCorruption, longest, poisson, uniform

MASK, WORDS = 4, 900
SENTINELS = range(999, 899, -1)


def text(length: int) -> NDArray[np.int64]:
    return np.random.default_rng(length).integers(10, WORDS, length)


def restored(source: NDArray[np.int64], target: NDArray[np.int64]) -> list[int]:
    """The text of a source whose sentinels are replaced by what the target says of them."""
    spans: dict[int, list[int]] = {}
    for token in target.tolist():
        if token >= WORDS:
            last = spans[token] = []
        else:
            last.append(token)
    return [token for i in source.tolist() for token in (spans.pop(i) if i >= WORDS else [i])]


def test_numbers_are_uniform_and_independent() -> None:
    a, b = uniform("0:0:1", "mask", 100_000), uniform("0:0:2", "mask", 100_000)
    assert abs(a.mean() - 0.5) < 0.005
    assert abs(a.var() - 1 / 12) < 0.001
    assert a.min() >= 0
    assert a.max() < 1
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.01
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.01
    assert np.array_equal(uniform("0:0:1", "mask", 5), a[:5])


def test_numbers_never_change() -> None:
    """They are a format: a run that is resumed by a later version sees the same noise."""
    assert uniform("7:0:12", "mask", 3).tolist() == [0.3335396406387069, 0.16646252650443194, 0.44045447679232264]


def test_masks_have_the_shares_of_bert() -> None:
    ids, masking = text(512), Masking(MASK, WORDS)
    rows = [masking(ids, f"0:0:{sample}") for sample in range(200)]
    assert all(chosen.sum() == 77 and np.array_equal(noisy[~chosen], ids[~chosen]) for noisy, chosen in rows)
    noisy, chosen = (np.stack(x) for x in zip(*rows, strict=True))
    shares = [(noisy[chosen] == MASK).mean(), (noisy == ids)[chosen].mean()]
    assert shares == pytest.approx([0.8, 0.1], abs=0.01)
    assert abs(chosen.mean(0) - 0.15).max() < 0.12, "every place is masked as often"


@given(st.integers(1, 60), st.integers(0, 99))
def test_whole_words(length: int, sample: int) -> None:
    ids, starts = text(length), np.arange(WORDS) % 3 != 0
    _, chosen = Masking(MASK, WORDS, starts=starts)(ids, f"0:0:{sample}")
    assert chosen.any()
    rest = ~starts[ids]
    rest[0] = False
    assert np.array_equal(chosen[rest], np.roll(chosen, 1)[rest]), "what continues a word is masked with it"


def test_lengths_are_those_of_t5() -> None:
    """512 tokens read and 114 written, ends included, of 568 tokens of text (Raffel et al., 2020, and their code)."""
    spans = SpanCorruption(SENTINELS)
    assert longest(spans.sizes, 511) == 568
    assert spans.sizes(568) == (511, 113)


@given(st.integers(2, 400), st.integers(0, 9), st.sampled_from([0.1, 0.15, 0.5]), st.sampled_from([1.0, 3.0, 9.0]))
def test_spans_lose_nothing(length: int, sample: int, density: float, mean: float) -> None:
    ids, spans = text(length), SpanCorruption(SENTINELS, density, mean)
    source, target = spans(ids, f"0:0:{sample}")
    assert restored(source, target) == ids.tolist()
    assert (len(source), len(target)) == spans.sizes(length)
    marks = source[source >= WORDS].tolist()
    assert marks == list(SENTINELS)[: len(marks)] == target[target >= WORDS].tolist()
    assert source[0] < WORDS <= source[-1], "a kept part first, a span last, as in T5's code"


@given(st.integers(1, 300), st.integers(0, 20))
def test_infilling_takes_its_share(length: int, sample: int) -> None:
    ids = text(length)
    noisy, target = Denoising(MASK, permute=False)(ids, f"0:0:{sample}")
    assert target is ids
    assert len(noisy) <= length
    left, remaining = noisy[noisy != MASK].tolist(), iter(ids.tolist())
    assert len(left) == length - round(0.3 * length)
    assert all(token in remaining for token in left), "what is kept keeps its order"


def test_masks_are_as_many_as_spans_of_poisson_length() -> None:
    ids, noise = text(512), Denoising(MASK)
    masks = [(noise(ids, f"0:0:{i}")[0] == MASK).sum() for i in range(300)]
    assert np.mean(masks) == pytest.approx(0.3 * 512 / 3.5, rel=0.05)
    numbers = poisson(3.5, uniform("0:0:0", "test", 100_000))
    assert [numbers.mean(), numbers.var()] == pytest.approx([3.5, 3.5], abs=0.05)


def test_sentences_are_permuted_whole() -> None:
    ids, stops = np.array([11, 12, 20, 13, 20, 14, 15, 16, 20]), np.arange(WORDS) == 20
    made = {tuple(Denoising(MASK, infill=0, stops=stops)(ids, f"0:0:{sample}")[0].tolist()) for sample in range(40)}
    assert len(made) == 6
    assert all(sorted(row) == sorted(ids.tolist()) and row[-1] == 20 for row in made)


def test_deletion_and_rotation() -> None:
    ids = text(200)
    kept = [Denoising(MASK, infill=0, permute=False, delete=0.15)(ids, f"0:0:{i}")[0] for i in range(100)]
    assert np.mean([len(row) for row in kept]) == pytest.approx(170, abs=2)
    turned = Denoising(MASK, infill=0, permute=False, rotate=1.0)(ids, "0:0:1")[0]
    assert turned.tolist() != ids.tolist()
    assert turned.tolist() in [np.roll(ids, -i).tolist() for i in range(200)]


@given(st.integers(2, 40), st.integers(0, 99))
def test_cuts_leave_both_sides_something(length: int, sample: int) -> None:
    ids = text(length)
    source, target = Cut()(ids, f"0:0:{sample}")
    assert np.array_equal(np.concatenate((source, target)), ids)
    assert 0 < len(source) < length
    assert max(len(source), len(target)) <= Cut().sizes(length)[0]
