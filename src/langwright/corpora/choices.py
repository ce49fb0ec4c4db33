"""Questions with answers to choose from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.files import find_files
from langwright.corpora.labelled import Columns, Table, choose_column, read_table
from langwright.corpora.reading import ROWS, Row, document_of, name_list, text_in

QUESTIONS = ("query", "question", "context", "ctx", "goal", "prompt", "text", "sentence")
CHOICES = ("choices", "endings", "options", "answers", "candidates")
GOLD = ("gold", "label", "answer", "answer_index", "correct", "target")
"""Usual names of the columns; the first that is there is taken."""


class ChoiceRow(NamedTuple):
    """A question and what may answer it.

    Args:
        question: The question, or a text that a choice goes on with.
        choices: Two or more.
        gold: The number of the right one from 0; None where it need not be there.
        source: The file and the line, or the number of the row.
    """

    question: str
    choices: tuple[str, ...]
    gold: int | None
    source: str


def read_choices(spec: str | Path, columns: Columns = Columns(), *, required: bool = True) -> list[ChoiceRow]:
    """The rows of JSON lines, JSON or Parquet: a question, a list of choices, and the number of the right one from 0.

    Args:
        spec: The file, folder or glob.
        columns: The question as `text_field`, the choices as `second_field`, the right one as `label_field`; guessed,
            and announced.
        required: Whether every row must say which is right; else that is not read.

    Raises:
        UserError: Names file and row: a column that is not there or cannot be guessed, choices that are no list of two
            or more texts, a number that is none of theirs.
    """
    return [
        row for path in find_files(str(spec), ROWS) for row in _choices(read_table(path, columns), columns, required)
    ]


def _choices(table: Table, columns: Columns, required: bool) -> Iterator[ChoiceRow]:
    table.check(columns)
    first = table.rows[0]
    question = choose_column(first, columns.text_field, QUESTIONS, "question", "--text-field")
    choices = choose_column(first, columns.second_field, CHOICES, "choices", "--second-field")
    gold = choose_column(first, columns.label_field, GOLD, "right choice", "--label-field") if required else None
    if len(columns.given) < 3:
        told = f", the right one in {name_list([gold])}" if gold else ""
        say(f"{table.path}: question in {name_list([question])}, choices in {name_list([choices])}{told}")
    for row in table.rows:
        found = _list(row, choices)
        right = None if gold is None else _number(row, gold, len(found))
        yield ChoiceRow(document_of(row, question).text, found, right, row.source)


def _list(row: Row, column: str) -> tuple[str, ...]:
    value: Any = row.values.get(column)
    if not isinstance(value, list) or len(value) < 2:
        raise UserError(f'{row.source}: "{column}" must be a list of two choices or more')
    return tuple(text_in(choice, column, row.source) for choice in value)


def _number(row: Row, column: str, count: int) -> int:
    value: Any = row.values.get(column)
    number = int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else -1
    if not 0 <= number < count or isinstance(value, bool):
        raise UserError(f'{row.source}: "{column}" is {value!r}, and not the number of one of {count} choices from 0')
    return number
