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
from langwright.corpora.words import pieces, tokens, words


def test_shingles_and_their_similarity_by_hand() -> None:
    assert shingles(tokens("The cat, the cat")) == {"the cat ,", "cat , the", ", the cat"}
    assert shingles(tokens("Cat!")) == {"cat !"}
    assert jaccard(shingles("abcde"), shingles("abcdf")) == 2 / 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 3.5 m_1", ["it", "'", "s", "3", ".", "5", "m_1"]),
        ("किताब की", ["किताब", "की"]),  # vowel signs are marks, which are no letters to Python
        ("我喜欢猫。", ["我", "喜", "欢", "猫", "。"]),
        ("ねこ2匹", ["ね", "こ", "2", "匹"]),
        ("ดีมาก", ["ดี", "ม", "า", "ก"]),
        ("a != b&&c", ["a", "!", "=", "b", "&", "&", "c"]),
        ("Good 👍👎", ["good", "👍", "👎"]),
        ("cafe\u0301\n  na\u00efve", ["cafe\u0301", "na\u00efve"]),
    ],
)
def test_words_of_every_script(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected
    assert "".join(pieces(text)) == text
    assert words(text) == [token for token in expected if token[0].isalnum()]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("क्या यह मेरी किताब है", "क्या यह मेरा कातिब है"),
        ("今天天气很好我们去公园吧", "明天他要坐火车去北京开会"),
        ("if a < b and c == d: x += 1", "if a > b and c != d: x -= 1"),
        ("I feel 😀 about it", "I feel 😡 about it"),
        ("+ + - -", "- - + +"),
    ],
)
def test_texts_that_differ_in_any_sign_are_not_the_same(a: str, b: str) -> None:
    assert near_duplicates([a, b], 0.9) == {}
    assert near_duplicates([a, b, a, f" {b}\n"], 1.0) == {2: 0, 3: 1}


def test_a_long_chinese_text_changed_in_one_place_is_nearly_the_same() -> None:
    text = "".join(chr(0x4E00 + 37 * i) for i in range(100))
    assert near_duplicates([text, text[:50] + "猫" + text[51:], text[::-1]], 0.9) == {1: 0}


def test_exact_duplicates_keep_the_first() -> None:
    assert exact_duplicates(["a", "b", "a", "c", "b", "a"]) == [2, 4, 5]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_near_duplicates_are_those_of_all_pairs(threshold: float) -> None:
    """At 20 texts that are changed step by step; a pair that is missed would be near the threshold and rare."""
    rng = random.Random(1)
    vocabulary = [f"w{i}" for i in range(400)]
    texts = []
    for _ in range(12):
        text = rng.choices(vocabulary, k=60)
        for _ in range(4):
            texts.append(" ".join(text))
            text = list(text)
            for _ in range(2):
                text[rng.randrange(60)] = rng.choice(vocabulary)
    sets = [shingles(tokens(text)) for text in texts]
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
