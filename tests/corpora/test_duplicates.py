"""Duplicates: exact ones, and near ones against all pairs compared."""

import random

import pytest

from langwright.corpora.duplicates import (
    PERMUTATIONS,
    RECALL,
    band_width,
    exact_duplicates,
    jaccard,
    near_duplicates,
    shingles,
)


def test_shingles_and_their_similarity_by_hand() -> None:
    assert shingles("The cat, the cat sat.") == {"the cat the", "cat the cat", "the cat sat"}
    assert shingles("Cat!") == {"cat"}
    assert jaccard(shingles("a b c d e"), shingles("a b c d f")) == 2 / 4


def test_exact_duplicates_keep_the_first() -> None:
    assert exact_duplicates(["a", "b", "a", "c", "b", "a"]) == [2, 4, 5]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_near_duplicates_are_those_of_all_pairs(threshold: float) -> None:
    """At 20 texts that are changed step by step; a pair that is missed would be near the threshold and rare."""
    rng = random.Random(1)
    words = [f"w{i}" for i in range(400)]
    texts = []
    for _ in range(12):
        text = rng.choices(words, k=60)
        for _ in range(4):
            texts.append(" ".join(text))
            text = list(text)
            for _ in range(2):
                text[rng.randrange(60)] = rng.choice(words)
    sets = [shingles(text) for text in texts]
    kept: list[int] = []
    for i, own in enumerate(sets):
        if not any(jaccard(own, sets[j]) >= threshold for j in kept):
            kept.append(i)
    found = near_duplicates(texts, threshold)
    assert sorted(set(range(len(texts))) - found.keys()) == kept
    assert all(jaccard(sets[i], sets[j]) >= threshold and j in kept for i, j in found.items())
    assert near_duplicates(texts, threshold) == found


def test_bands_are_as_wide_as_recall_allows() -> None:
    for threshold in (0.5, 0.8, 0.95):
        width = band_width(threshold)
        assert 1 - (1 - threshold**width) ** (PERMUTATIONS // width) >= RECALL
        assert 1 - (1 - threshold ** (width + 1)) ** (PERMUTATIONS // (width + 1)) < RECALL
    assert band_width(0.8) == 6
