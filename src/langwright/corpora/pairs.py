"""Pairs of texts, a source and its target: the lines of two files, or two columns of a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.document import Corpus, Document
from langwright.corpora.files import find_files
from langwright.corpora.hub import PREFIX
from langwright.corpora.labelled import Columns, Table, read_table
from langwright.corpora.reading import ROWS, document_of, ending_of, file_and_part, name_list, read_lines
from langwright.corpora.splits import settle_split, split_items

JOIN = "::"
USUAL = (
    ("source", "target"), ("document", "summary"), ("dialogue", "summary"), ("article", "highlights"),
    ("article", "summary"), ("text", "summary"), ("prompt", "response"), ("prompt", "completion"),
    ("input", "output"), ("src", "tgt"), ("en", "de"), ("en", "fr"), ("en", "es"), ("en", "hau"),
)  # fmt: skip
"""Usual names of the columns of a source and its target; the first that are there are taken."""
HEADINGS = {name for names in USUAL for name in names}


class Pair(NamedTuple):
    """A source and its target. where: the files and the line, for people."""

    source: str
    target: str
    where: str


@dataclass(frozen=True)
class Pairs:
    """Pairs in the order of their files; those with an empty side are left out.

    name: what the user calls them.
    """

    name: str
    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.pairs)

    def corpus(self) -> Corpus:
        """Each pair as a document of two lines."""
        return Corpus(self.name, "pairs", lambda: (Document(_joined(pair), pair.where) for pair in self.pairs), 2)

    def split(self, split: str) -> tuple[list[Pair], list[Pair], str]:
        """The training and the held-out pairs, and the split that was settled on; see `settle_split`."""
        rule = settle_split(self.corpus(), split)
        return *split_items(self.pairs, rule, _joined, spec=self.name, what="pairs"), str(rule)


def open_pairs(spec: str, columns: Columns = Columns(), answered: bool = True) -> Pairs:
    """Pairs out of two files of parallel lines, plain or packed, joined by `::`; or out of two columns of a table.

    Args:
        spec: `train.en::train.de`; or a `.csv`, `.tsv`, `.jsonl`, `.json` or `.parquet` file, folder or glob.
        columns: of a table the source as `text_field`, the target as `label_field`; guessed, and announced.
        answered: whether each pair must have a target. Those with an empty side are left out then; else every source
            is kept, in its order, and a file with another ending is one of sources, one a line.

    Raises:
        UserError: There are not two files, one cannot be read, they have different numbers of lines, or a column is
            not there or cannot be guessed.
    """
    if columns.second_field is not None:
        raise UserError(f"--second-field {columns.second_field}: a source and its target are named by --text-field and "
                        "--label-field")  # fmt: skip
    plain = file_and_part(Path(spec))[0]
    table = JOIN not in spec and (plain.is_dir() or ending_of(plain) in ROWS or spec.startswith(PREFIX))
    if table:
        pairs = [pair for path in find_files(spec, ROWS) for pair in _columns(path, columns, answered)]
    elif columns.given:
        raise UserError(f"{spec}: has lines, not columns; leave out {name_list(columns.given)}")
    elif JOIN in spec or answered:
        pairs = _parallel(spec)
    else:
        pairs = [Pair(text, "", f"{spec}:{n}") for n, text in enumerate(_lines(Path(spec).expanduser()), start=1)]
    found = [pair for pair in pairs if pair.source and pair.target] if answered else pairs
    if not found:
        raise UserError(f"{spec}: no {'row' if table else 'line'} has text{' on both sides' * answered}")
    if left := len(pairs) - len(found):
        say(f"{spec}: {left:,} {'rows' if table else 'lines'} with an empty side are left out")
    return Pairs(spec, tuple(found))


def _parallel(spec: str) -> list[Pair]:
    """The lines of two files, side by side."""
    names = spec.split(JOIN)
    if len(names) != 2 or not all(names):
        raise UserError(f"{spec}: pairs are two files of parallel lines, such as train.en{JOIN}train.de, or a table")
    sides = [list(_lines(Path(name).expanduser())) for name in names]
    if len(sides[0]) != len(sides[1]):
        counts = " and ".join(f"{name} has {len(side):,} lines" for name, side in zip(names, sides, strict=True))
        raise UserError(f"{counts}: line n of one must be the translation of line n of the other")
    lines = enumerate(zip(*sides, strict=True), start=1)
    return [Pair(source, target, f"{names[0]}:{number}") for number, (source, target) in lines]


def _columns(path: Path, columns: Columns, answered: bool) -> Iterator[Pair]:
    """The pairs of two columns of a table; targets are empty where they need not be there and are not found."""
    table = read_table(path, columns, HEADINGS)
    table.check(columns)
    source, target = _named(table, columns)
    if source is None:
        raise table.cannot_guess("source", "--text-field")
    if answered and target is None:
        raise table.cannot_guess("target", "--label-field")
    if columns.text_field is None or columns.label_field is None:
        say(f"{path}: source in {name_list([source])}, target in {name_list([target] if answered and target else [])}")
    for row in table.rows:
        written = document_of(row, target).text.strip() if answered and target is not None else ""
        yield Pair(document_of(row, source).text.strip(), written, row.source)


def _named(table: Table, columns: Columns) -> tuple[str | None, str | None]:
    """The columns of source and target: those named, the first usual ones, two languages, or the only two there are."""
    source, target = columns.text_field, columns.label_field
    for usual in USUAL:
        found = source or table.usual(usual[:1]), target or table.usual(usual[1:])
        if all(found) and found[0] != found[1]:
            return found
    left = [name for name in table.values if name not in (source, target)]
    languages = [name for name in left if name.islower() and name.isalpha() and len(name) in (2, 3)]
    for names in (languages, left):
        if len(names) == (source is None) + (target is None):
            rest = iter(names)
            return source or next(rest), target or next(rest)
    first = next((name for usual in USUAL if (name := table.usual(usual[:1]))), left[0] if len(left) == 1 else None)
    return source or first, target


def _lines(path: Path) -> Iterator[str]:
    return (line.strip() for line in read_lines(path))


def _joined(pair: Pair) -> str:
    return f"{pair.source}\n{pair.target}"
