"""Rows with several fields out of files: JSON lines, JSON, CSV, TSV and Parquet, plain or packed."""

import csv
import glob
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base.errors import UserError
from langwright.corpora.reading import ending_of, lines_of, name_list

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_LARGEST_CELL = 1 << 30


@dataclass(frozen=True, slots=True)
class Row:
    """One row. values: by field. source: the file and the line, or the number of the row where there are no lines."""

    values: dict[str, Any]
    source: str


def read_rows(spec: str) -> Iterator[Row]:
    """The rows of a file, of a folder's files, or of those that a glob matches, in the order of their paths.

    A `.json` file is a list of objects; cells of tables are texts. All but `.parquet` may be packed: `.jsonl.gz`.
    Raises UserError naming file and row for what is broken, and for rows that are no objects.
    """
    for path in _files(spec):
        try:
            yield from _read(path)
        except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
            raise UserError(f"{path}: the archive is damaged or cut short: {error}; fetch it again") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _files(spec: str) -> list[Path]:
    path = Path(spec).expanduser()
    endings = f"a file of rows ends in {', '.join(ENDINGS)}, all but .parquet also with .gz or .xz"
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and ending_of(p) in ENDINGS)
        if not found:
            raise UserError(f"{spec}: no file of rows in this folder; {endings}")
        return found
    found = [path] if path.exists() else sorted(Path(p) for p in glob.glob(str(path), recursive=True))
    if not found:
        raise UserError(f"{spec}: no such file or folder, and no file matches it as a pattern")
    for file in found:
        if ending_of(file) not in ENDINGS:
            raise UserError(f"{file}: unknown ending {file.suffix!r}; {endings}")
    return found


def _read(path: Path) -> Iterator[Row]:
    match ending_of(path):
        case ".jsonl":
            for number, line in enumerate(lines_of(path), start=1):
                if not line.isspace():
                    yield _row(_json(line, f"{path}:{number}"), f"{path}:{number}")
        case ".json":
            rows = _json("".join(lines_of(path)), str(path))
            if not isinstance(rows, list):
                raise UserError(f"{path}: the file must be a JSON list of objects; one object a line is .jsonl")
            for number, row in enumerate(rows, start=1):
                yield _row(row, f"{path}: row {number}")
        case ".parquet":
            yield from _parquet(path)
        case ending:
            yield from _table(path, "\t" if ending == ".tsv" else ",")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise UserError(f"{where}: JSON that is nested too deep") from None


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a row must be an object with named fields, not {type(value).__name__}")
    return Row(value, where)


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_LARGEST_CELL)
    rows = csv.reader(lines_of(path), strict=True, delimiter=delimiter)
    try:
        header = next(rows, [])
        line = rows.line_num + 1
        for cells in rows:
            if cells and len(cells) != len(header):
                raise UserError(f"{path}:{line}: {len(cells)} cells under {len(header)} columns, {name_list(header)}")
            if cells:
                yield Row(dict(zip(header, cells, strict=True)), f"{path}:{line}")
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: not a valid table: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; pip install langwright[data]") from None
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{path}: row {number}")
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a whole Parquet file: {error}") from None
