"""Rows of texts and labels, out of the tables that the world keeps them in: what a classifier learns from."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from langwright.base.console import say
from langwright.base.errors import UserError, suggest
from langwright.corpora.files import find_files
from langwright.corpora.reading import (
    ROWS,
    SPLIT,
    Row,
    document_of,
    ending_of,
    file_and_part,
    name_list,
    read_lines,
    read_rows,
    rows_of_part,
    split_column,
    text_in,
)

TEXTS: tuple[tuple[str, ...], ...] = (
    ("text",), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("text1", "text2"), ("text_a", "text_b"), ("question", "sentence"), ("question", "passage"),
    ("sentence",), ("review",), ("comment_text",), ("content",), ("tweet",), ("message",), ("question",),
    ("title", "description"), ("a", "b"),
)  # fmt: skip
"""Usual names of a column of text, or of the two columns of a pair; the first that are there are taken."""

LABELS = (
    "label",
    "labels",
    "class",
    "category",
    "class_index",
    "target",
    "sentiment",
    "gold",
    "score",
    "rating",
    "stars",
)
"""Usual names of the column of labels; the first that is there is taken."""

APART = "|"
"""Between the labels of a row in one cell."""

HEADINGS = {name for names in (*TEXTS[:-1], LABELS) for name in names}  # "a" and "b" may as well be labels


@dataclass(frozen=True)
class Columns:
    """Which columns hold what: the options that commands on rows with labels share.

    A column that is not named is guessed, and the guess announced. In a table without a header, columns are numbered
    from 1.

    Args:
        text_field: the column of the text, or its number in a table without a header; guessed unless given.
        second_field: the column of a second text, for pairs of texts.
        label_field: the column of the label; guessed unless given.
        group_field: of series, the column of the subject, of whom all windows stay on one side of the split; guessed
            unless given.
    """

    text_field: str | None = None
    second_field: str | None = None
    label_field: str | None = None
    group_field: str | None = None

    @property
    def given(self) -> list[str]:
        """The columns that are named."""
        return [name for name in vars(self).values() if name is not None]


class LabelledRow(NamedTuple):
    """A text, or a pair of texts, and how it is labelled.

    Args:
        text: The text.
        second: The second text of a pair, or None.
        labels: One label, several where they were asked for, or none where they need not be there.
        source: The file and the line, or the number of the row where a file has no lines.
    """

    text: str
    second: str | None
    labels: tuple[str, ...]
    source: str

    @property
    def label(self) -> str:
        """The one label."""
        (label,) = self.labels
        return label

    @property
    def whole(self) -> str:
        """The text, and the second one after a blank."""
        return self.text if self.second is None else f"{self.text} {self.second}"


def read_labelled(
    spec: str | Path,
    columns: Columns = Columns(),
    *,
    known: Collection[str] | None = None,
    required: bool = True,
    several: bool = False,
    unread: bool = False,
) -> list[LabelledRow]:
    """Read the rows of a file, folder or glob: `.csv` and `.tsv` with or without a header, JSON lines, JSON, Parquet.

    Args:
        spec: The path.
        columns: Which columns hold what.
        known: The labels that there can be; any if None.
        required: Whether every row must have a label.
        several: Whether a row may have a list of labels, an empty one too. Cells of a `.csv` or `.tsv` are such lists
            where one of them has a `|`, which is announced.
        unread: Whether labels are passed over, whatever they are; `.txt` may then hold texts, one a line.

    Raises:
        UserError: Names the file and the row: a column that is not there or cannot be guessed, a text that is none, a
            label that is missing or unknown, a file without rows.
    """
    if unread and ending_of(Path(spec)) == ".txt":
        if columns.given:
            raise UserError(f"{spec}: has lines, not columns; leave out {name_list(columns.given)}")
        lines = ((path, *line) for path in find_files(str(spec), (".txt",)) for line in enumerate(read_lines(path), 1))
        return [LabelledRow(text.rstrip("\r\n"), None, (), f"{path}:{number}") for path, number, text in lines]
    return [
        row
        for path in find_files(str(spec), ROWS)
        for row in _labelled(read_table(path, columns), columns, known, required and not unread, several, unread)
    ]


@runtime_checkable
class Labelled(Protocol):
    """What has labels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels."""


def label_names(rows: Iterable[Labelled], where: str | Path) -> list[str]:
    """The labels of the rows, each once: in the order of numbers if all are, else of the alphabet.

    Raises UserError where there are fewer than two, so that there is nothing to learn.
    """
    names = {label for row in rows for label in row.labels}
    if len(names) < 2:
        raise UserError(f"{where}: a classifier needs two labels or more; there is {name_list(sorted(names))}")
    return sorted(sorted(names), key=int) if all(name.isdecimal() for name in names) else sorted(names)


@dataclass(frozen=True)
class Table:
    """All rows of one file.

    Args:
        path: The file.
        rows: Its rows, without the header.
        numbered: Whether its columns have numbers for names.
    """

    path: Path
    rows: Sequence[Row]
    numbered: bool = False

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """What stands in each column, from the top; rows that lack it are passed over."""
        values: dict[str, list[Any]] = {}
        for row in self.rows:
            for name, value in row.values.items():
                values.setdefault(name, []).append(value)
        return values

    def usual(self, names: Iterable[str]) -> str | None:
        """The first of some usual names that a column has, in whatever spelling."""
        return usual_column(self.values, names)

    def check(self, columns: Columns) -> None:
        """Raise UserError for a column that is named and not there."""
        for name in columns.given:
            if name not in self.values:
                there = f"there is {name_list(self.values)}{suggest(name, self.values)}"
                raise UserError(f'{self.rows[0].source}: no column "{name}"; {there}')

    def cannot_guess(self, what: str, flag: str) -> UserError:
        """What to raise if a column is neither named nor found."""
        return UserError(f"{self.path}: which column holds the {what}? Name it with {flag}: {name_list(self.values)}")


def plain_name(name: str) -> str:
    """A column's name as the usual ones are spelt."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def usual_column(names: Iterable[str], usual: Iterable[str]) -> str | None:
    """The column with the first of some usual names that is there, in whatever spelling."""
    spelt = {plain_name(name): name for name in names}
    return next((spelt[name] for name in usual if name in spelt), None)


def choose_column(row: Row, given: str | None, usual: Iterable[str], what: str, flag: str) -> str:
    """The column that is named, or one with a usual name.

    Args:
        row: the first row, whose columns there are.
        given: the name, if there is one.
        usual: what it is called else.
        what: what the column holds, for the message.
        flag: what names it.

    Raises:
        UserError: It is not there.
    """
    there = name_list(row.values)
    if given is not None and given not in row.values:
        raise UserError(f'{row.source}: no column "{given}"; there is {there}{suggest(given, row.values)}')
    if (found := given or usual_column(row.values, usual)) is None:
        raise UserError(f"{row.source}: which column holds the {what}? Name it with {flag}: {there}")
    return found


def read_table(path: Path, columns: Columns, headings: Collection[str] = HEADINGS) -> Table:
    """The rows of a file. Whether a table has a header shows in its first row.

    It has one if a column that was named stands there, or a usual name that is no value below. Where columns are
    given by their numbers it has none.

    Args:
        path: The file.
        columns: Those that are named.
        headings: The usual names.
    """
    if columns.group_field is not None:
        raise UserError(f"--group-field {columns.group_field}: is for recordings, not for {path}")
    if ending_of(path) not in (".csv", ".tsv"):
        rows = list(read_rows(path, None))
        if not rows:
            raise UserError(f"{path}: there is no row in it")
        return Table(path, rows)
    plain, part = file_and_part(path)
    table = Table(plain, _cells(plain), numbered=True)
    first, rest = table.rows[0], table.rows[1:]
    if columns.given:
        header = not all(name in first.values for name in columns.given)
    else:
        header = split_column(first.values.values()) is not None or any(
            plain_name(cell) in headings and cell not in table.values[n][1:] for n, cell in first.values.items()
        )
    if not header:
        if part is not None:
            raise UserError(f'{path}: the table has no header with a column "{SPLIT}"')
        return table
    names = list(first.values.values())
    if not rest:
        raise UserError(f"{path}: there is no row under the header {name_list(names)}")
    if len(set(names)) < len(names):
        raise UserError(f"{first.source}: a column is there twice among {name_list(names)}; rename one")
    rows = [Row(dict(zip(names, row.values.values(), strict=True)), row.source) for row in rest]
    return Table(path, rows if part is None else list(rows_of_part(rows, plain, part)))


def _cells(path: Path) -> list[Row]:
    """All rows of a table, its header too, under the numbers of the columns.

    Whether quotes in a `.tsv` enclose cells or belong to the text is written nowhere: GLUE's has loose ones. They
    enclose cells if the file can be read so, unless it has more rows when each line is one.
    """
    readings: list[list[Row]] = []
    error: UserError | None = None
    for quotes in (True, False) if ending_of(path) == ".tsv" else (True,):
        try:
            readings.append(list(read_rows(path, None, header=False, quotes=quotes)))
        except UserError as fault:
            error = fault
    if error and not readings:
        raise error
    return max(readings, key=len)


def _label_column(table: Table, columns: Columns, known: Collection[str] | None, required: bool) -> str | None:
    """The column of the labels: the named one, one with a usual name, or one that looks like labels.

    That is one with mostly known labels or, of two or three columns without names, the one with the fewest values.
    """
    if columns.label_field is not None:
        return columns.label_field
    if (required or known is None) and (usual := table.usual(LABELS)):
        return usual
    texts = (columns.text_field, columns.second_field)
    cells = {n: Counter(map(str, column)) for n, column in table.values.items() if n not in texts}
    if known is not None:
        fitting = [n for n, counts in cells.items() if 2 * sum(counts[label] for label in known) >= counts.total()]
    elif required and table.numbered and len(cells) <= 3:
        fitting = [n for n, counts in cells.items() if len(counts) > 1 or len(cells) == 2]
    else:
        fitting = []
    if not fitting and required:
        raise table.cannot_guess("label", "--label-field")
    label = min(fitting, key=lambda n: (len(cells[n]), sum(map(len, cells[n]))), default=None)
    if label is not None and known is None and cells[label][first := table.values[label][0]] == 1:
        raise UserError(
            f'{table.rows[0].source}: is this a header, or is "{first}" a label that no other row has? Give '
            "--text-field and --label-field, by their names or, without a header, by their numbers"
        )
    return label


def _text_columns(table: Table, columns: Columns, label: str | None) -> list[str]:
    """The column of the text, and that of the second text if there is one."""
    second = [] if columns.second_field is None else [columns.second_field]
    if columns.text_field is not None:
        return [columns.text_field, *second]
    for names in TEXTS:
        found = [table.usual([name]) for name in names]
        if all(found):
            return [*filter(None, found[:1] if second else found), *second]
    left = [name for name in table.values if name not in (label, *second)]
    if len(left) == 1 or (table.numbered and len(left) == 2 and not second):
        return [*left, *second]
    raise table.cannot_guess("text", "--text-field")


def _labelled(
    table: Table, columns: Columns, known: Collection[str] | None, required: bool, several: bool, unread: bool
) -> Iterator[LabelledRow]:
    table.check(columns)
    label = _label_column(table, columns, known, required)
    texts = _text_columns(table, columns, label)
    label = None if unread else label
    if columns.text_field is None or columns.label_field is None:
        told = "" if unread else f", label in {name_list([label] if label else [])}"
        say(f"{table.path}: text in {name_list(texts)}{told}")
    lists = several and label is not None and ending_of(table.path) in (".csv", ".tsv")
    lists = lists and any(APART in cell for cell in table.values[label or ""])
    if lists:
        say(f'{table.path}: the labels of a row are parted by "{APART}"; an empty cell has none')
    for row in table.rows:
        labels = () if label is None else _labels(row, label, required, several, lists)
        for name in labels:
            if known is not None and name not in known:
                raise UserError(f'{row.source}: unknown label "{name}"; known are {name_list(known)}')
        text, *second = (document_of(row, name).text for name in texts)
        yield LabelledRow(text, second[0] if second else None, labels, row.source)


def _labels(row: Row, column: str, required: bool, several: bool, lists: bool) -> tuple[str, ...]:
    """The labels of a row as texts: numbers and truth values as JSON spells them. lists: a cell may hold several."""
    value: Any = row.values.get(column)
    if lists:
        value = value.split(APART) if value.strip() else []
    if isinstance(value, list) and not several:
        raise UserError(f'{row.source}: the field "{column}" is a list; a row has one label here')
    items = [
        item.strip() if isinstance(item, str) else item for item in (value if isinstance(value, list) else [value])
    ]
    if any(item is None or item == "" or item != item for item in items):  # NaN: what some libraries write for nothing
        if required or isinstance(value, list):
            raise UserError(f'{row.source}: there is no label in "{column}"')
        return ()
    for item in items:
        if not isinstance(item, str | int | float):
            raise UserError(f'{row.source}: the label in "{column}" is {type(item).__name__}, not text or a number')
    return tuple(text_in(item if isinstance(item, str) else json.dumps(item), column, row.source) for item in items)
