"""Sentences cut into words, each with a tag: columns as CoNLL's shared tasks have them, and rows with lists."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.files import find_files
from langwright.corpora.labelled import Columns, choose_column
from langwright.corpora.reading import Row, ending_of, name_list, read_lines, read_rows, text_in

ENDINGS = (".conll", ".txt", ".jsonl", ".json", ".parquet")
WORDS = ("tokens", "words")
"""Usual names of the list of words; the first that is there is taken."""
TAGS = ("tags", "ner_tags", "labels", "pos_tags")
"""Usual names of the list of tags; the first that is there is taken."""
DOCUMENT = "-DOCSTART-"
"""The first word of a line between two documents, which belongs to none."""


class TaggedRow(NamedTuple):
    """A sentence.

    Args:
        words: Its words.
        tags: One a word; none where they were not asked for.
        source: The file and the line where it begins, or the number of the row.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    source: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags."""
        return self.tags


def read_tagged(
    spec: str | Path, columns: Columns = Columns(), *, known: Collection[str] | None = None, required: bool = True
) -> list[TaggedRow]:
    """Read the sentences of a file, folder or glob.

    `.conll` and `.txt` have one word a line and a blank line after each sentence. The word is the first column, the tag
    the last, with blanks or tabs between; lines with `-DOCSTART-` are passed over. Without tags, `.txt` may hold
    sentences as lines of text. JSON lines, JSON and Parquet have a list of words and a list of tags a row.

    Args:
        spec: The path.
        columns: Which column, or its number from 1, holds the words (`text_field`) and the tags (`label_field`).
        known: The tags that there can be; any if None.
        required: Whether every word must have a tag; else tags are not read.

    Raises:
        UserError: Names the file and the line or row: a word without a tag, lists of different length, an unknown tag,
            a file without sentences.
    """
    if columns.second_field is not None:
        raise UserError("--second-field: sentences of tagged words have no second text")
    found: list[TaggedRow] = []
    for path in find_files(str(spec), ENDINGS):
        in_columns = ending_of(path) in (".conll", ".txt")
        read = _columns if in_columns else _lists
        before = len(found)
        found += read(path, columns, known, required)
        if len(found) == before:
            raise UserError(f"{path}: there is no sentence in it")
    return found


def _known(tag: str, known: Collection[str] | None, where: str) -> str:
    if known is not None and tag not in known:
        raise UserError(f'{where}: unknown tag "{tag}"; known are {name_list(known)}')
    return tag


@dataclass
class _Sentence:
    """The lines of a sentence so far."""

    start: int = 0
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def _columns(path: Path, columns: Columns, known: Collection[str] | None, required: bool) -> Iterator[TaggedRow]:
    """Sentences of lines of columns, or, of a text file without tags, of lines of words."""
    lines = [line.rstrip("\r\n") for line in read_lines(path)]
    cells = [line.split("\t") if "\t" in line else line.split(" ") for line in lines]
    cells = [[cell for cell in row if cell] for row in cells]  # aligned by several blanks
    widths = {len(row) for row in cells if row and row[0] != DOCUMENT}
    if not required and ending_of(path) == ".txt" and (len(widths) > 1 or not _blank_within(cells)) and widths != {1}:
        say(f"{path}: each line is read as a sentence, cut into words at its blanks")
        for number, row in enumerate(cells, start=1):
            if row:
                yield TaggedRow(tuple(row), (), f"{path}:{number}")
        return
    word, tag = _number(columns.text_field, "--text-field", 1), _number(columns.label_field, "--label-field", 0)
    width, sentence = 0, _Sentence()
    for number, row in enumerate([*cells, []], start=1):
        where = f"{path}:{number}"
        if row and row[0] != DOCUMENT:
            width = width or len(row)
            if len(row) != width:
                raise UserError(f"{where}: {len(row)} columns where the lines before have {width}")
            if max(word, tag) > width:
                raise UserError(f"{where}: no column {max(word, tag)}; there are {width}")
            if required and width == 1:
                raise UserError(f'{where}: the word "{row[0]}" has no tag; a line is a word, a blank and its tag')
            sentence.start = sentence.start or number
            sentence.words.append(text_in(row[word - 1], "word", where))
            if required:
                sentence.tags.append(_known(row[tag - 1], known, where))
        elif sentence.words:
            yield TaggedRow(tuple(sentence.words), tuple(sentence.tags), f"{path}:{sentence.start}")
            sentence = _Sentence()


def _blank_within(cells: Sequence[Sequence[str]]) -> bool:
    """Whether a blank line parts two others, as it does between sentences of columns."""
    filled = [i for i, row in enumerate(cells) if row]
    return bool(filled) and filled[-1] - filled[0] >= len(filled)


def _number(written: str | None, flag: str, usual: int) -> int:
    """The number of a column; 0 for the last."""
    if written is None:
        return usual
    if not written.isdecimal() or int(written) < 1:
        raise UserError(f"{flag} {written}: columns of a file with one word a line are numbered from 1")
    return int(written)


def _lists(path: Path, columns: Columns, known: Collection[str] | None, required: bool) -> Iterator[TaggedRow]:
    """Sentences of rows with lists; columns without a name are guessed from the first row."""
    names: list[str] = []
    for row in read_rows(path, None):
        if not names:
            names = [choose_column(row, columns.text_field, WORDS, "words", "--text-field")]
            if required:
                names.append(choose_column(row, columns.label_field, TAGS, "tags", "--label-field"))
            if columns.text_field is None or (required and columns.label_field is None):
                say(f"{path}: words in {name_list(names[:1])}, tags in {name_list(names[1:])}")
        words = _items(row, names[0])
        if not words:
            raise UserError(f'{row.source}: there is no word in "{names[0]}"')
        if blank := [word for word in words if not word.strip()]:
            raise UserError(f'{row.source}: a word in "{names[0]}" is {blank[0]!r}')
        tags: tuple[str, ...] = ()
        if required:
            tags = tuple(_known(tag, known, row.source) for tag in _items(row, names[1]))
            if len(tags) != len(words):
                raise UserError(f'{row.source}: {len(words)} words in "{names[0]}", {len(tags)} tags in "{names[1]}"')
        yield TaggedRow(words, tags, row.source)


def _items(row: Row, name: str) -> tuple[str, ...]:
    """A list of texts, or of numbers, which become texts."""
    items: Any = row.values.get(name)
    if not isinstance(items, list):
        there = f'"{name}" is {type(items).__name__}' if name in row.values else f'no column "{name}"'
        raise UserError(f"{row.source}: {there}; a list of words or tags stands there")
    return tuple(str(item) if type(item) is int else text_in(item, name, row.source) for item in items)
