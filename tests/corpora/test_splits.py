"""Splits are exact, re-readable, and do not depend on what they should not depend on."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.corpora.document import Corpus, Document
from langwright.corpora.opening import open_corpus
from langwright.corpora.splits import Split, is_held_out, parse_split, settle_split, split_documents

from ..refusals import refused

MANY = [f"document {i} " + "word " * (i % 5) for i in range(4000)]


def corpus_of(texts: list[str]) -> Corpus:
    return Corpus("memory", "files", lambda: iter([Document(text, str(i)) for i, text in enumerate(texts)]))


def held_out(texts: list[str], share: float = 0.05) -> set[str]:
    return {text for text in texts if is_held_out(text, share)}


def test_content_decides_and_nothing_else() -> None:
    chosen = held_out(MANY)
    assert held_out(MANY[::-1]) == chosen
    assert held_out(MANY[:2000]) == chosen & set(MANY[:2000])
    assert 0.03 * len(MANY) < len(chosen) < 0.07 * len(MANY)
    assert chosen <= held_out(MANY, 0.2)  # a larger share keeps what was held out


def test_the_choice_never_changes() -> None:
    # Frozen: another result would move training text into the validation part of models that exist.
    assert [i for i in range(100) if is_held_out(f"text {i}", 0.05)] == [7, 40, 54, 63, 71, 83, 94]


def test_content_split_parts_every_document() -> None:
    training, validation = split_documents(corpus_of(MANY))
    chosen = held_out(MANY)
    for _ in range(2):  # both parts can be read again
        assert [d.text for d in validation] == [text for text in MANY if text in chosen]
        assert [d.text for d in training] == [text for text in MANY if text not in chosen]


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
)
def test_contiguous_split_is_exact(texts: list[str], fraction: float) -> None:
    whole = "".join(texts)
    boundary = int(len(whole) * fraction)
    training, validation = split_documents(corpus_of(texts), fraction)
    if boundary == 0:
        with refused("memory"):
            list(training)
        return
    assert "".join(d.text for d in training) == whole[:boundary]
    assert "".join(d.text for d in validation) == whole[boundary:]
    pieces = [d.text for d in training] + [d.text for d in validation]
    assert len(pieces) in (len(texts), len(texts) + 1)  # at most one document is cut
    assert all(pieces)


def test_tiny_shakespeare_is_split_as_everyone_does(data_folder: object) -> None:
    training, validation = split_documents(open_corpus("tinyshakespeare"), "0.9")
    assert [len(d.text) for d in training] == [1_003_854]
    assert [len(d.text) for d in validation] == [111_540]


def test_splits_are_read_from_text() -> None:
    assert parse_split("5%") == Split(0.05, by_content=True)
    assert parse_split(" 0.9 ") == parse_split(0.9) == Split(0.9, by_content=False)
    assert [str(parse_split(text)) for text in ("12.5%", "0.9")] == ["12.5%", "0.9"]
    for wrong in ("half", "", "1", "0", "100%", "-5%", "nan", 1.5):
        with refused(wrong, "split"):
            parse_split(wrong)


@pytest.mark.parametrize("text", ["text 0" * 9, "text 7" * 9])
def test_documents_all_of_one_side_are_split_in_order(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = replace(corpus_of([text]), name=text)
    training, validation = split_documents(corpus, "20%")
    assert f"{text}: --split 20%" in capsys.readouterr().err
    assert settle_split(corpus, "20%") == Split(0.8, by_content=False)
    assert capsys.readouterr().err == "", "the user is told once"
    assert [[d.text for d in side] for side in (training, validation)] == [[text[:43]], [text[43:]]]
    assert settle_split(corpus_of(MANY), "20%") == Split(0.2, by_content=True)
    with refused("memory"):
        list(split_documents(corpus_of([]))[0])
