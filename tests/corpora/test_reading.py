"""Every kind of file becomes documents with exactly its text, and every fault is named with its place."""

import csv
import gzip
import json
import lzma
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base.errors import UserError
from langwright.corpora.document import Document
from langwright.corpora.reading import read_documents

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def texts(path: Path, field: str = "text") -> list[str]:
    return [document.text for document in read_documents(path, field)]


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "a.md.xz", "a.xz", "A.TXT"])
def test_text_files_are_one_document_exactly(tmp_path: Path, name: str) -> None:
    data = b"one\r\ntwo\n\n  <|endoftext|> not alone in its line\n"
    packed = (
        gzip.compress(data, mtime=0) if name.endswith("gz") else lzma.compress(data) if name.endswith("xz") else data
    )
    path = write(tmp_path / name, packed)
    assert list(read_documents(path)) == [Document(data.decode(), str(path))]


def test_separator_lines_end_documents(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.txt", "one\n\n<|endoftext|>\ntwo\r\n<|endoftext|>\r\n<|endoftext|>\nthree\n<|endoftext|>"
    )
    documents = list(read_documents(path))
    assert [document.text for document in documents] == ["one\n", "two", "", "three", ""]
    assert [document.source for document in documents] == [f"{path}:{line}" for line in (1, 4, 6, 7, 9)]


@given(parts=st.lists(TEXT.filter(lambda text: "<" not in text and not text.endswith("\r")), min_size=1, max_size=4))
def test_joining_by_separator_lines_is_undone(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    path = write(tmp_path_factory.mktemp("joined") / "a.txt", "\n<|endoftext|>\n".join(parts))
    assert texts(path) == [parts[0].removeprefix("\ufeff"), *parts[1:]]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, data in [("a.txt", "é"), ("a.py", "é = 1"), ("a.jsonl", '{"text": "é"}'), ("a.csv", "text\né\n")]:
        assert texts(write(tmp_path / name, b"\xef\xbb\xbf" + data.encode()))[0][0] == "é"


def test_python_files_are_decoded_as_python_does(tmp_path: Path) -> None:
    source = "# -*- coding: latin-1 -*-\nname = 'é'\r\n"
    assert texts(write(tmp_path / "a.py", source.encode("latin-1"))) == [source]


@given(rows=st.lists(TEXT, min_size=1, max_size=5))
def test_json_lines_and_tables_keep_each_text(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps({"id": i, "body": row}, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows))
    write(folder / "a.jsonl", lines + "\n")
    write(folder / "a.jsonl.gz", gzip.compress(lines.encode(), mtime=0))
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "body"], *enumerate(rows)])
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(rows)), "body": rows}), folder / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        assert texts(folder / name, "body") == rows
    if "\0" not in "".join(rows):
        assert texts(folder / "a.csv", "body") == rows


def test_sources_name_the_line(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", '{"text": "x"}\n\n{"text": "y"}\n')
    table = write(tmp_path / "a.csv", 'text\n"two\nlines"\nnext\n')
    assert [d.source for d in read_documents(lines)] == [f"{lines}:1", f"{lines}:3"]
    assert [d.source for d in read_documents(table)] == [f"{table}:2", f"{table}:4"]


FAULTS: list[tuple[str, bytes, str]] = [
    ("a.txt", b"good\nba\xffd", "a.txt: byte 0xff at offset 7 is not UTF-8 text"),
    ("a.txt", b"\xef\xbb\xbfa\xff", "a.txt: byte 0xff at offset 4 is not UTF-8 text"),
    ("a.txt", b"one\n<|endoftext|>\nt\xc3", "a.txt: byte 0xc3 at offset 19 is not UTF-8 text"),
    ("a.txt.gz", gzip.compress(b"ab\xff", mtime=0), "a.txt.gz: byte 0xff at offset 2 is not UTF-8 text"),
    ("a.py", b"x = 1\n\n\ny = '\xff'", "a.py: byte 0xff at offset 13 is not UTF-8 text"),
    ("a.py", b"'\xff'", "a.py: byte 0xff at offset 1 is not UTF-8 text"),
    ("a.py", b"# coding: ascii\nx = '\xff'", "a.py: byte at offset 21 is not ascii, which its first lines name"),
    ("a.py", b"# coding: no-such\n", "a.py: Python cannot decode it: unknown encoding"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "a.jsonl: byte 0xff at offset 24 is not UTF-8 text"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', 'a.jsonl:2: no field "text"; this line has "txt"'),
    ("a.jsonl", b'{"text": "a"}\n\n{"text": 5}', 'a.jsonl:3: the field "text" is int, not text'),
    ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl:2: not valid JSON: Expecting value at column 10"),
    ("a.jsonl", b"[1]", 'a.jsonl:1: a line must be an object such as {"text": "..."}'),
    ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1: \\ud800 is half a surrogate pair"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0)[:-9], "a.jsonl.gz: the archive is damaged or cut short"),
    ("a.txt.gz", b"plain", "a.txt.gz: the archive is damaged or cut short"),
    ("a.txt.xz", lzma.compress(b"text")[:-4], "a.txt.xz: the archive is damaged or cut short"),
    ("a.csv", b"body,x\n1,2\n", 'a.csv:1: no column "text"; the first line has "body", "x"'),
    ("a.csv", b"", 'a.csv:1: no column "text"; the first line has none'),
    ("a.csv", b"x,text\n1,a\n2\n", 'a.csv:3: 1 cells, so none in column "text" (2)'),
    ("a.csv", b'text\n"open', "a.csv:2: not valid CSV"),
    ("a.csv", b"text\na\nb\xff\n", "a.csv: byte 0xff at offset 8 is not UTF-8 text"),
    ("a.parquet", b"text", "a.parquet: not a whole Parquet file"),
    ("a.doc", b"text", "a.doc: unknown ending '.doc'; a corpus file ends in .txt, .md, .py, .jsonl, .csv, .parquet"),
    ("a.tar.gz", b"text", "a.tar.gz: unknown ending '.gz'"),
    ("a.parquet.gz", b"text", "a.parquet.gz: unknown ending '.gz'"),
]


@pytest.mark.parametrize(("name", "data", "message"), FAULTS)
def test_faults_are_named_with_their_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        list(read_documents(write(tmp_path / name, data)))
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read: No such file"):
        list(read_documents(tmp_path / "gone.txt"))


def test_parquet_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(UserError, match='no column "body"; it has "text"'):
        texts(path, "body")
    with pytest.raises(UserError, match='row 2 of column "text" is NoneType, not text'):
        texts(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow; pip install langwright\[data\]"):
        texts(path)


def test_long_cells_are_read(tmp_path: Path) -> None:
    text = "x" * 300_000
    assert texts(write(tmp_path / "a.csv", f"text\n{text}\n")) == [text]
