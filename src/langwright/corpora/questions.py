"""Questions about texts whose answers are parts of them: SQuAD's form, and rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.files import find_files
from langwright.corpora.labelled import Columns, choose_column, usual_column
from langwright.corpora.reading import ROWS, Row, ending_of, name_list, read_rows, read_value, text_in

CONTEXTS = ("context", "passage", "paragraph", "text")
"""Usual names of the column of the text; the first that is there is taken."""
ANSWERS = ("answers", "answer")
"""Usual names of the column of answers; the first that is there is taken."""
STARTS = ("start", "answer_start")
"""Names of the column that says where an answer begins, beside one with its text."""


KINDS = {str: "text", int: "whole number", list: "list"}
"""What a field may be, in words."""


class QuestionRow(NamedTuple):
    """A question about a text.

    Args:
        question: The question.
        context: The text.
        answers: Where each answer begins, in characters, and the answer; none if the text has none. None if unknown.
        group: What a split keeps on one side: the title of the article, or the text.
        source: The file and the question's id, line or row.
    """

    question: str
    context: str
    answers: tuple[tuple[int, str], ...] | None
    group: str
    source: str


def read_questions(spec: str | Path, columns: Columns = Columns(), *, required: bool = True) -> list[QuestionRow]:
    """Read the questions of a file, folder or glob.

    `.json` holds articles in the form of SQuAD 1.1 or 2.0, or a list of objects. In these, and in the rows of other
    formats, answers are `{"text": [...], "answer_start": [...]}`, a list of `{"text": ..., "answer_start": ...}`, or a
    text with its `start` in a column beside it.

    Args:
        spec: The path.
        columns: Which columns of rows hold the question (`text_field`), the text (`second_field`) and the answers
            (`label_field`); guessed unless given.
        required: Whether every question must say what its answers are; else they are not read.

    Raises:
        UserError: Names the file and the question, line or row: an answer that does not stand where it should, parts
            that are missing, a file without questions.
    """
    found: list[QuestionRow] = []
    for path in find_files(str(spec), ROWS):
        value = read_value(path) if ending_of(path) == ".json" else None
        before = len(found)
        if isinstance(value, dict):
            if columns.given:
                raise UserError(f'{path}: SQuAD\'s form has no columns, so no "{columns.given[0]}"')
            found += _articles(value, str(path), required)
        else:
            found += _rows(path, columns, required)
        if len(found) == before:
            raise UserError(f"{path}: there is no question in it")
    return found


def _articles(value: dict[str, Any], path: str, required: bool) -> Iterator[QuestionRow]:
    for i, article in enumerate(_part(value, "data", list, path), start=1):
        here = f"{path}: article {i}"
        title = article.get("title") if isinstance(article, dict) else None
        for j, paragraph in enumerate(_part(article, "paragraphs", list, here), start=1):
            there = f"{here}, paragraph {j}"
            context = text_in(_part(paragraph, "context", str, there), "context", there)
            title = title if isinstance(title, str) and title else context
            for asked in _part(paragraph, "qas", list, there):
                question = text_in(_part(asked, "question", str, there), "question", there)
                where = f"{path}: question {asked.get('id', repr(question))}"
                answers = None
                if required:
                    given = [] if asked.get("is_impossible") is True else _part(asked, "answers", list, where)
                    answers = _answers(given, context, where)
                yield QuestionRow(question, context, answers, title, where)


def _part(value: Any, name: str, kind: type, where: str) -> Any:
    """A field of an object; UserError where it is missing or of another kind."""
    part = value.get(name) if isinstance(value, dict) else None
    if not isinstance(part, kind):
        raise UserError(f'{where}: no "{name}" that is a {KINDS[kind]}')
    return part


def _rows(path: Path, columns: Columns, required: bool) -> Iterator[QuestionRow]:
    names: list[str] = []
    for row in read_rows(path, None):
        if not names:
            names = [
                choose_column(row, columns.text_field, ("question",), "question", "--text-field"),
                choose_column(row, columns.second_field, CONTEXTS, "text", "--second-field"),
            ]
            if required:
                names.append(columns.label_field or usual_column(row.values, ANSWERS) or ANSWERS[0])
            if len(columns.given) < 3:
                say(f"{path}: question, text{' and answers' * required} in {name_list(names)}")
        asked, text = (_text(row, name) for name in names[:2])
        answers = _answers(_given(row, names[2]), text, row.source) if required else None
        yield QuestionRow(asked, text, answers, text, row.source)


def _text(row: Row, name: str) -> str:
    if name not in row.values:
        raise UserError(f'{row.source}: no column "{name}"; there is {name_list(row.values)}')
    return text_in(row.values[name], name, row.source)


def _given(row: Row, label: str) -> list[Any]:
    """The answers of a row as a list of objects."""
    if row.values.get("is_impossible") is True:
        return []
    if label not in row.values:
        raise UserError(f'{row.source}: no column "{label}"; there is {name_list(row.values)}')
    value = row.values[label]
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        texts, starts = (_part(value, name, list, row.source) for name in ("text", "answer_start"))
        if len(texts) != len(starts):
            raise UserError(f'{row.source}: {len(texts)} answers in "text", {len(starts)} in "answer_start"')
        return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    start = next((row.values[name] for name in STARTS if name in row.values), None)
    start = int(start) if isinstance(start, str) and start.isdecimal() else start  # a cell of a table
    return [{"text": value, "answer_start": start}]


def _answers(given: list[Any], context: str, where: str) -> tuple[tuple[int, str], ...]:
    """Each answer with the character where it begins, which is looked at."""
    answers = []
    for answer in given:
        text = text_in(_part(answer, "text", str, where), "text", where)
        start = _part(answer, "answer_start", int, where)
        if not text.strip() or start < 0 or context[start : start + len(text)] != text:
            raise UserError(f'{where}: the answer "{text}" does not stand at character {start} of its text')
        answers.append((start, text))
    return tuple(answers)
