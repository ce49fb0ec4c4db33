"""What is wrong with conversations, what a score makes of them, and other wordings of them."""

import pytest

from langwright.base.errors import UserError
from langwright.corpora.augmentation import CHANGES, SYNONYMS, augmented, changes_named
from langwright.corpora.conversations import Chat
from langwright.corpora.quality import faults, heuristic_score


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
    with pytest.raises(UserError, match=r'--augment typo: known are synonyms.*did you mean "typos"'):
        changes_named(["typo"])
