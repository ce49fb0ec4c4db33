"""What one file holds: texts, or rows with named fields; plain or packed with gzip, xz or Zstandard."""

import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import tokenize
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from langwright.base.errors import UserError
from langwright.base.extras import need
from langwright.corpora.document import Document

SEPARATOR = "<|endoftext|>"
"""A line with nothing but this ends a document in a text file."""

TEXTS = (".txt", ".md", ".py")
ROWS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".xz", ".zst")
_LARGEST_CELL = 1 << 30

SPLIT = "split"
"""The column that says which part of a data set a row belongs to."""
MARK = "#"
"""Between a file and the part that is meant: rows.jsonl#dev."""
PARTS = {
    "train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev",
    "test": "test",
}  # fmt: skip
"""What parts are called, and which each is."""


class Row(NamedTuple):
    """One row.

    Args:
        values: The fields by name; of a table only the columns that were asked for.
        source: The file and the line, or the number of the row where a file has no lines.
    """

    values: dict[str, Any]
    source: str


def file_and_part(path: Path) -> tuple[Path, str | None]:
    """A file, and the part of its rows that is meant; None for all."""
    name, _, part = path.name.rpartition(MARK)
    return (path.with_name(name), PARTS[part]) if name and part in PARTS else (path, None)


def split_column(names: Iterable[str]) -> str | None:
    """The column that says which part a row belongs to, in whatever spelling."""
    return next((name for name in names if name.strip().lower() == SPLIT), None)


def ending_of(path: Path) -> str:
    """The ending that decides the format: that of the unpacked file; a bare `.gz` holds plain text."""
    path = file_and_part(path)[0]
    ending = path.suffix.lower()
    if ending not in PACKED:
        return ending
    inner = Path(path.stem).suffix.lower()
    return ending if inner == ".parquet" else inner or ".txt"


def spelt(endings: Iterable[str]) -> str:
    """Endings as a phrase for error messages."""
    return f"{', '.join(endings)}, all but .parquet also with {' or '.join(PACKED)}"


def read_documents(path: Path, field: str = "text") -> Iterator[Document]:
    """Read the documents of one file as a stream; the ending decides how.

    `.txt` and `.md` are UTF-8. Lines with only `<|endoftext|>` separate documents and belong to none, nor does the line
    break before them. A byte order mark is dropped. `.py` is one document, decoded as Python would. In other files each
    row's `field` is a document.

    Raises:
        UserError: Names the file and the byte, line or row of what cannot be read.
    """
    if ending_of(path) in ROWS:
        yield from (document_of(row, field) for row in read_rows(path, (field,)))
    else:
        with _explained(path):
            yield from _read_python(path) if ending_of(path) == ".py" else _read_text(path)


def document_of(row: Row, field: str) -> Document:
    """The text in a field of a row. Raises UserError where there is none."""
    if field not in row.values:
        raise UserError(f'{row.source}: no field "{field}"; there is {name_list(row.values)}')
    return Document(text_in(row.values[field], field, row.source), row.source)


def text_in(value: Any, field: str, where: str) -> str:
    """The value of a field that must be text. Raises UserError for others, and for text that cannot be encoded."""
    if not isinstance(value, str):
        raise UserError(f'{where}: the field "{field}" is {type(value).__name__}, not text')
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON escapes can spell it
        escape = f"\\u{ord(value[error.start]):04x}"
        raise UserError(f"{where}: {escape} is half a surrogate pair, which is not text; mend or drop it") from None
    return value


def read_rows(
    path: Path, columns: Collection[str] | None, *, header: bool = True, quotes: bool = True
) -> Iterator[Row]:
    """Read the rows of one file as a stream; `.json` holds a list of objects, the cells of `.csv` and `.tsv` are texts.

    Args:
        path: A file whose ending is one of `ROWS`, packed or not; with a mark, one part of it.
        columns: What is read of a table; all columns if None. A value in another column may be broken.
        header: Whether the first row of `.csv` and `.tsv` names the columns; without it they are "1", "2" and so on.
        quotes: Whether cells of `.csv` and `.tsv` may stand in quotes; without it every line is a row.

    Raises:
        UserError: Names the file and the line or row of what is broken or no object.
    """
    path, part = file_and_part(path)
    if part is not None:
        yield from rows_of_part(read_rows(path, None, header=header, quotes=quotes), path, part)
        return
    with _explained(path):
        match ending_of(path):
            case ".jsonl":
                for number, line in enumerate(_lines(path), start=1):
                    if not line.isspace():
                        yield _object(_json(line, f"{path}:{number}"), f"{path}:{number}")
            case ".json":
                rows = read_value(path)
                if not isinstance(rows, list):
                    raise UserError(f"{path}: the file must be a JSON list of objects; one object a line is .jsonl")
                yield from (_object(row, f"{path}: row {n}") for n, row in enumerate(rows, start=1))
            case ".parquet":
                yield from _read_parquet(path, columns)
            case ending:
                delimiter = "\t" if ending == ".tsv" else ","
                yield from _read_table(path, columns, delimiter=delimiter, header=header, quotes=quotes)


def rows_of_part(rows: Iterable[Row], path: Path, part: str) -> Iterator[Row]:
    """The rows of a part, without the column that says so; UserError where a row has none, or no row is in the part."""
    found = False
    for row in rows:
        column = split_column(row.values)
        if column is None:
            raise UserError(f'{row.source}: no column "{SPLIT}", which {path}{MARK}{part} needs')
        if PARTS.get(str(row.values[column]).lower()) == part:
            found = True
            yield Row({name: value for name, value in row.values.items() if name != column}, row.source)
    if not found:
        raise UserError(f'{path}: no row has "{part}" in its column "{SPLIT}"')


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, packed or not, with their ends; UserError where it cannot be read."""
    if file_and_part(path)[1] is not None:
        raise UserError(f'{path}: the file has no rows with a column "{SPLIT}"')
    with _explained(path):
        yield from _lines(path)


def read_value(path: Path) -> Any:
    """The one value of a JSON file, packed or not; UserError where it cannot be read."""
    return _json("".join(read_lines(path)), str(path))


def name_list(names: Iterable[str]) -> str:
    """Names as a phrase for error messages."""
    return ", ".join(f'"{name}"' for name in names) or "none"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Around the reading of a file: what the operating system and the packers raise becomes a UserError."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read, or is damaged: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    """The message of an exception without its line breaks."""
    return " ".join(str(error).split())


def _open(path: Path) -> io.BufferedIOBase:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
        case ".zst":
            arrow = need("pyarrow", "data", str(path))
            return io.BufferedReader(arrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _decode(data: bytes, path: Path, offset: int) -> str:
    """UTF-8 bytes that begin at `offset` of the unpacked file, as text."""
    if offset == 0 and data.startswith(codecs.BOM_UTF8):
        data, offset = data.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        byte, place = data[error.start], offset + error.start
        raise UserError(
            f"{path}: byte {byte:#04x} at offset {place} is not UTF-8 text; convert the file to UTF-8"
        ) from None


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends."""
    offset = 0
    with _open(path) as file:
        for line in file:
            yield _decode(line, path, offset)
            offset += len(line)


def _read_text(path: Path) -> Iterator[Document]:
    separator = SEPARATOR.encode()
    part, offset, first_line = io.BytesIO(), 0, 1
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.startswith(separator) and line.rstrip(b"\r\n") == separator:
                text = _decode(part.getvalue(), path, offset)
                yield Document(text.removesuffix("\n").removesuffix("\r"), f"{path}:{first_line}")
                part, offset, first_line = io.BytesIO(), offset + part.tell() + len(line), number + 1
            else:
                part.write(line)
    text = _decode(part.getvalue(), path, offset)
    part.close()  # a large file is not kept twice while its text is worked on
    yield Document(text, str(path) if first_line == 1 else f"{path}:{first_line}")


def _read_python(path: Path) -> Iterator[Document]:
    with _open(path) as file:
        data = file.read()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = _decode(data, path, 0) if encoding.startswith("utf-8") else data.decode(encoding)
    except (SyntaxError, ValueError, LookupError) as error:  # the last: a codec that makes no text, such as hex
        _decode(data, path, 0)  # names the byte
        raise UserError(f"{path}: Python cannot decode it: {_one_line(error)}") from None
    yield Document(text_in(text, "text", str(path)), str(path))


def _json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises UserError, also for what is nested too deep and integers of too many digits."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: JSON that cannot be read: {error}") from None


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a row must be an object with named fields, not {type(value).__name__}")
    return Row(value, where)


def _read_table(
    path: Path, columns: Collection[str] | None, *, delimiter: str, header: bool, quotes: bool
) -> Iterator[Row]:
    csv.field_size_limit(_LARGEST_CELL)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    rows = csv.reader(_lines(path), strict=True, delimiter=delimiter, quoting=quoting)

    def numbered() -> Iterator[tuple[int, list[str]]]:
        """Each row that is not blank, with the line where it begins."""
        line = 1
        for cells in rows:
            if cells:
                yield line, cells
            line = rows.line_num + 1

    try:
        following = numbered()
        top, first = next(following, (1, []))
        names = first if header else [str(number) for number, _ in enumerate(first, start=1)]
        chosen = _choose(names, columns, f"{path}:{top}")
        for line, cells in following if header else itertools.chain([(top, first)], following):
            if len(cells) != len(names):
                raise UserError(
                    f"{path}:{line}: {len(cells)} cells under {len(names)} columns, {name_list(names)}; "
                    "a cell with a comma or a line break stands in quotes"
                )
            yield Row({names[i]: cells[i] for i in chosen}, f"{path}:{line}")
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: not a valid table: {error}") from None


def _read_parquet(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    parquet = need("pyarrow.parquet", "data", str(path))
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            asked = [names[i] for i in _choose(names, columns, str(path))]
            for batch in file.iter_batches(batch_size=1024, columns=asked):
                cells = {name: batch.column(name) for name in asked}
                for i in range(batch.num_rows):
                    number += 1
                    yield Row({name: _plain(cell[i].as_py()) for name, cell in cells.items()}, f"{path}: row {number}")
    except (UserError, OSError):
        raise
    except Exception as error:  # bytes that are not UTF-8, times that Python cannot hold: it has no common base
        raise UserError(f"{path}: row {number}: not Parquet that can be read: {_one_line(error)}") from None


def _choose(names: Sequence[str], columns: Collection[str] | None, where: str) -> list[int]:
    """The places of the columns asked for among those that are there; of all columns if None."""
    chosen = [i for i, name in enumerate(names) if columns is None or name in columns]
    found = [names[i] for i in chosen]
    if not found:
        wanted = "" if columns is None else f" {name_list(columns)}"
        raise UserError(f"{where}: no column{wanted}; there is {name_list(names)}")
    if len(set(found)) < len(found):
        raise UserError(f"{where}: a column is there twice among {name_list(found)}; rename one")
    return chosen


def _plain(value: Any, inside: bool = False) -> Any:
    """A value of Arrow as JSON could hold it, without the nulls of fields that only other rows have.

    Maps become objects. inside: a list or an object, where dates and the like become text.
    """
    if isinstance(value, dict):
        return {name: _plain(item, True) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        pairs = bool(value) and isinstance(value[0], tuple)
        return _plain(dict(value)) if pairs else [_plain(item, True) for item in value]
    return str(value) if inside and not isinstance(value, str | int | float | None) else value
