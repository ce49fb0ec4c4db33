"""Documents out of one file: text, JSON lines, CSV and Parquet, plain or packed with gzip or xz."""

import codecs
import csv
import gzip
import io
import json
import lzma
import tokenize
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from langwright.base.errors import UserError
from langwright.corpora.document import Document

SEPARATOR = "<|endoftext|>"
"""A line with nothing but this ends a document in a text file."""

ENDINGS = (".txt", ".md", ".py", ".jsonl", ".csv", ".parquet")
PACKED_ENDINGS = (".gz", ".xz")

_LARGEST_CELL = 1 << 30


def is_supported(path: Path) -> bool:
    """Whether the file's ending is one that `read_documents` knows."""
    return ending_of(path) in ENDINGS


def read_documents(path: Path, field: str = "text") -> Iterator[Document]:
    """The documents of one file, as a stream; the ending decides how it is read.

    `.txt` and `.md`: UTF-8; lines with only `<|endoftext|>` separate documents, and so belong to none, nor does the
    line break before them; a byte order mark is dropped. `.py`: one document, decoded as Python would. `.jsonl`:
    `field` of each line. `.csv`: the column `field`. `.parquet`: the column `field` (needs pyarrow). All but
    `.parquet` may be packed: `.jsonl.gz`, `.txt.xz`; a bare `.gz` or `.xz` holds plain text.

    Raises UserError naming the file, and the byte offset (in the unpacked text) or the line, for undecodable bytes, a
    missing field or column, broken JSON, a damaged archive, an unknown ending, and a file that cannot be read.
    """
    if not is_supported(path):
        raise UserError(f"{path}: unknown ending {path.suffix!r}; a corpus file ends in {possible_endings()}")
    try:
        yield from _READERS[ending_of(path)](path, field)
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise UserError(f"{path}: the archive is damaged or cut short: {error}; fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def possible_endings() -> str:
    """The endings as a phrase for error messages."""
    return f"{', '.join(ENDINGS)}, all but .parquet also with {' or '.join(PACKED_ENDINGS)}"


def ending_of(path: Path) -> str:
    """The ending that decides the format: that of the unpacked file."""
    if path.suffix.lower() not in PACKED_ENDINGS:
        return path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return path.suffix if inner == ".parquet" else inner or ".txt"


def _open(path: Path) -> io.BufferedIOBase:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
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


def _read_text(path: Path, field: str) -> Iterator[Document]:
    separator = SEPARATOR.encode()
    part = io.BytesIO()
    offset, line, first_line = 0, 0, 1
    with _open(path) as file:
        for row in file:
            line += 1
            if row.startswith(separator) and row.rstrip(b"\r\n") == separator:
                text = _decode(part.getvalue(), path, offset)
                yield Document(text.removesuffix("\n").removesuffix("\r"), f"{path}:{first_line}")
                offset += part.tell() + len(row)
                first_line = line + 1
                part = io.BytesIO()
            else:
                part.write(row)
    text = _decode(part.getvalue(), path, offset)
    part.close()  # a large file is not kept twice while its text is worked on
    yield Document(text, str(path) if first_line == 1 else f"{path}:{first_line}")


def _read_python(path: Path, field: str) -> Iterator[Document]:
    with _open(path) as file:
        data = file.read()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError as error:
        _decode(data, path, 0)
        raise UserError(f"{path}: Python cannot decode it: {error}") from None
    if encoding in ("utf-8", "utf-8-sig"):
        yield Document(_decode(data, path, 0), str(path))
        return
    try:
        yield Document(data.decode(encoding), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte at offset {error.start} is not {encoding}, which its first lines name") from None


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends."""
    offset = 0
    with _open(path) as file:
        for row in file:
            yield _decode(row, path, offset)
            offset += len(row)


def _read_json_lines(path: Path, field: str) -> Iterator[Document]:
    for number, line in enumerate(lines_of(path), start=1):
        if not line.isspace():
            yield Document(_field_of(line, field, f"{path}:{number}"), f"{path}:{number}")


def _field_of(line: str, field: str, where: str) -> str:
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise UserError(f"{where}: JSON that is nested too deep") from None
    if not isinstance(value, dict):
        raise UserError(f'{where}: a line must be an object such as {{"{field}": "..."}}')
    if field not in value:
        raise UserError(f'{where}: no field "{field}"; this line has {name_list(value)}')
    text = value[field]
    if not isinstance(text, str):
        raise UserError(f'{where}: the field "{field}" is {type(text).__name__}, not text')
    return _without_surrogates(text, where)


def _without_surrogates(text: str, where: str) -> str:
    """The text itself; JSON escapes can spell half a surrogate pair, which no encoding can carry."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        escape = f"\\u{ord(text[error.start]):04x}"
        raise UserError(f"{where}: {escape} is half a surrogate pair, which is not text; mend or drop it") from None
    return text


def _read_csv(path: Path, field: str) -> Iterator[Document]:
    csv.field_size_limit(_LARGEST_CELL)
    rows = csv.reader(lines_of(path), strict=True)
    try:
        header = next(rows, [])
        if field not in header:
            raise UserError(f'{path}:1: no column "{field}"; the first line has {name_list(header)}')
        column = header.index(field)
        line = rows.line_num + 1
        for row in rows:
            if row and column >= len(row):
                raise UserError(f'{path}:{line}: {len(row)} cells, so none in column "{field}" ({column + 1})')
            if row:
                yield Document(row[column], f"{path}:{line}")
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: not valid CSV: {error}") from None


def _read_parquet(path: Path, field: str) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; pip install langwright[data]") from None
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise UserError(f'{path}: no column "{field}"; it has {name_list(file.schema_arrow.names)}')
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if not isinstance(text, str):
                        raise UserError(f'{path}: row {row} of column "{field}" is {type(text).__name__}, not text')
                    yield Document(text, f"{path}:{row}")
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a whole Parquet file: {error}") from None


def name_list(names: Any) -> str:
    """Names as a phrase for error messages."""
    return ", ".join(f'"{name}"' for name in names) or "none"


_READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_python,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
