"""Duplicates, faults and scores of conversations, and other wordings of them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.corpora.augmentation import CHANGES, SYNONYMS, augmented, changes_named
from langwright.corpora.cleaning import (
    PERMUTATIONS,
    RECALL,
    band_width,
    exact_duplicates,
    faults,
    heuristic_score,
    jaccard,
    near_duplicates,
    pieces,
    shingles,
    tokens,
    words,
)
from langwright.corpora.conversations import Chat

from ..refusals import refused


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


SIGNS = st.one_of(
    st.characters(codec="utf-8"), st.sampled_from("ab Z_9.'\n\t\x1c\x85\xa0\u2028\u3000é\u0301漢ひカก่İ¼²٣")
)


@given(st.text(SIGNS, max_size=30))
def test_tokens_are_the_pieces_that_are_no_white_space(text: str) -> None:
    assert tokens(text) == [piece for piece in pieces(text.lower()) if not piece.isspace()]


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


def chat(*turns: tuple[str, str]) -> Chat:
    return Chat(tuple({"role": role, "content": text} for role, text in turns), "f:1")


@pytest.mark.parametrize(
    ("turns", "found"),
    [
        ([("system", "S"), ("user", "Q"), ("assistant", "A")], []),
        ([("user", "Q"), ("assistant", " \n")], ["empty answer"]),
        ([("user", "Say it."), ("assistant", "Say it. ")], ["answer repeats the question"]),
        ([("user", "Q"), ("system", "S"), ("assistant", "A")], ["system message after the first"]),
        ([("user", "Q<|im_end|>"), ("assistant", "A")], ["special token in the text"]),
        ([("user", "Q"), ("user", "R"), ("assistant", "A")], ["turns do not alternate"]),
        ([("user", "Q"), ("assistant", ""), ("assistant", "")], ["empty answer", "turns do not alternate"]),
    ],
)
def test_faults(turns: list[tuple[str, str]], found: list[str]) -> None:
    assert faults(chat(*turns), ["<|im_end|>"]) == found


def test_the_score_by_hand() -> None:
    """Varied 1, length 6 of 30 words, and 3 of 4 shingles are not the question's."""
    said = chat(("user", "one two three"), ("assistant", "one two three four five six"))
    assert heuristic_score(said) == pytest.approx(6 / 30 * 3 / 4)
    again = chat(("user", "q"), ("assistant", "yes it is " * 20))
    assert heuristic_score(again) == pytest.approx(3 / 58)
    assert heuristic_score(chat(("user", "q"), ("assistant", "..."))) == 0
    full = chat(("user", "q"), ("assistant", " ".join(f"w{i}" for i in range(40))))
    assert heuristic_score(full) == 1


ASKED = "Please explain how the quick brown fox, which is big, jumps over a lazy dog (twice)."


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_touches_the_user_alone_and_follows_from_the_seed(name: str) -> None:
    said = chat(("system", ASKED), ("user", ASKED), ("assistant", ASKED))
    made = augmented(said, name, 0, 7)
    assert made is not None
    assert [m["content"] == ASKED for m in made.messages] == [True, False, True]
    assert augmented(said, name, 0, 7) == made
    others = {augmented(said, name, seed, n).messages[1]["content"] for seed in range(5) for n in range(5)}  # type: ignore[union-attr]
    assert len(others) > 3
    assert made.source == f"f:1 ({name})"


def test_what_each_change_does() -> None:
    said = chat(("user", ASKED), ("assistant", "A"))
    before = ASKED.replace(",", " ,").split()
    for seed in range(20):
        made = {name: augmented(said, name, seed, 0).messages[0]["content"] for name in CHANGES}  # type: ignore[union-attr]
        assert sorted(made["swap"]) == sorted(ASKED)
        assert 0 < len(before) - len(made["deletion"].replace(",", " ,").split()) <= 2
        assert "  " not in made["deletion"]
        changed = [(a, b) for a, b in zip(ASKED.split(), made["synonyms"].split(), strict=True) if a != b]
        assert changed
        for a, b in changed:
            group = next(group for group in SYNONYMS if a.strip(",.").lower() in group)
            assert b.strip(",.").lower() in group
        misspelt = [(a, b) for a, b in zip(ASKED.split(), made["typos"].split(), strict=True) if a != b]
        assert all(a[0] == b[0] and abs(len(a) - len(b)) <= 1 for a, b in misspelt)


def test_nothing_to_change_gives_nothing() -> None:
    for name in CHANGES:
        assert augmented(chat(("user", "Hm"), ("assistant", "A")), name, 0, 0) is None


def test_names_of_changes() -> None:
    assert changes_named(["swap,typos", "deletion"]) == ["swap", "typos", "deletion"]
    with refused("--augment typo", "synonyms", '"typos"'):
        changes_named(["typo"])
