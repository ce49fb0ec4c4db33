"""Words with tags, and questions with answers that stand in their texts: what files hold, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from langwright.corpora.labelled import Columns
from langwright.corpora.questions import read_questions
from langwright.corpora.tagged import read_tagged
from refusals import refused

CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nsaid VBD O\n\n\nLima\tNNP\tB-LOC\n"
SENTENCES = [(("EU", "said"), ("B-ORG", "O")), (("Lima",), ("B-LOC",))]
CONTEXT = "Ada lives in Rome. The city is old."


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.conll", CONLL),
        ("a.conll.gz", CONLL),
        ("a.txt", CONLL.replace("\n", "\r\n")),
        ("a.jsonl", lines(*({"id": 1, "tokens": w, "ner_tags": t} for w, t in SENTENCES))),
        ("a.json", json.dumps([{"words": w, "labels": t} for w, t in SENTENCES])),
    ],
)
def test_words_and_tags_of_every_form(name: str, text: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, text)
    assert [(row.words, row.tags) for row in read_tagged(path)] == SENTENCES
    assert [row.words for row in read_tagged(path, required=False)] == [words for words, _ in SENTENCES]


def test_columns_are_chosen_and_tags_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", CONLL)
    assert read_tagged(path, Columns(label_field="2"))[0].tags == ("NNP", "VBD")
    for name, text in (("b.conll", "EU\nsaid\n\nLima\n"), ("b.txt", "EU said\nLima\n")):
        rows = read_tagged(write(tmp_path / name, text), required=False)
        assert [(row.words, row.tags) for row in rows] == [(words, ()) for words, _ in SENTENCES]


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.conll", "EU O\nsaid\n", ["a.conll:2"]),
        ("a.conll", "EU\nsaid\n", ["a.conll:1", '"EU"']),
        ("a.conll", "EU O\n\nRome B-LOC\n", ["a.conll:3", '"B-LOC"']),
        ("a.conll", "\n\n", ["a.conll"]),
        ("a.jsonl", lines({"tokens": ["a", "b"], "tags": ["O"]}), ["a.jsonl:1", "2", "1"]),
        ("a.jsonl", lines({"tokens": ["a"], "tags": ["O"]}, {"tokens": "a", "tags": ["O"]}), ["a.jsonl:2", '"tokens"']),
        ("a.jsonl", lines({"tokens": ["a"], "pos": ["O"]}), ["a.jsonl:1", "--label-field"]),
        ("a.jsonl", lines({"tokens": ["a", " "], "tags": ["O", "O"]}), ["a.jsonl:1", '"tokens"']),
        ("a.jsonl", "", ["a.jsonl"]),
    ],
)
def test_broken_sentences_are_refused(name: str, text: str, names: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / name, text)
    with refused(*names):
        read_tagged(path, known=["O"])


def rome(start: int) -> dict[str, Any]:
    return {**WHERE, "answers": [{"text": "Rome", "answer_start": start}]}


def squad(*asked: dict[str, Any], **article: Any) -> str:
    return json.dumps({"version": "v2.0", "data": [{**article, "paragraphs": [{"context": CONTEXT, "qas": asked}]}]})


WHERE = {"id": "q1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 13}]}
NOBODY = {"id": "q2", "question": "When?", "answers": [], "is_impossible": True}
ANSWERS = {"text": ["Rome"], "answer_start": [13]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", squad(WHERE, NOBODY)),
        ("a.json.gz", squad(WHERE, NOBODY)),
        (
            "a.jsonl",
            lines(
                {"question": "Where?", "context": CONTEXT, "answers": ANSWERS},
                {"question": "When?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
            ),
        ),
        ("a.csv", f"question,context,answer,start\nWhere?,{CONTEXT},Rome,13\nWhen?,{CONTEXT},,\n"),
    ],
)
def test_questions_of_every_form(name: str, text: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, text)
    found = [(row.question, row.context, row.answers) for row in read_questions(path)]
    assert found == [("Where?", CONTEXT, ((13, "Rome"),)), ("When?", CONTEXT, ())]
    assert {row.answers for row in read_questions(path, required=False)} == {None}


def test_questions_are_split_by_article_or_text(tmp_path: Path) -> None:
    assert read_questions(write(tmp_path / "a.json", squad(WHERE, title="Rome")))[0].group == "Rome"
    assert read_questions(write(tmp_path / "b.json", squad(WHERE)))[0].group == CONTEXT


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        (
            "a.json",
            squad(rome(12)),
            ["a.json", "q1", '"Rome"', "12"],
        ),
        ("a.json", squad(rome(-22)), ["a.json", "q1", "-22"]),
        ("a.json", squad({"id": "q1", "question": "Where?"}), ["a.json", "q1", '"answers"']),
        ("a.json", squad({"id": "q1", "answers": []}), ["a.json", '"question"']),
        ("a.json", squad(), ["a.json"]),
        ("a.json", "{}", ["a.json", '"data"']),
        ("a.jsonl", lines({"question": "Where?", "context": CONTEXT}), ["a.jsonl:1", '"answers"']),
        ("a.jsonl", lines({"question": "Where?", "answers": ANSWERS}), ["a.jsonl:1", "text", "--second-field"]),
        ("a.jsonl", lines({"question": "?", "context": "Rome", "answer": "Rome"}), ["a.jsonl:1", '"answer_start"']),
        ("a.jsonl", "", ["a.jsonl"]),
    ],
)
def test_answers_that_do_not_stand_in_their_texts_are_refused(
    name: str, text: str, names: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / name, text)
    with refused(*names):
        read_questions(path)
