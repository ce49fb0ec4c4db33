"""Every kind of file becomes documents with exactly its text, and every fault is named with its place."""

import csv
import gzip
import json
import lzma
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base.errors import UserError
from langwright.corpora.document import Document
from langwright.corpora.opening import open_corpus
from langwright.corpora.reading import ROWS, TEXTS, read_documents, read_rows

from ..refusals import refused

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def texts(path: Path, field: str = "text") -> list[str]:
    return [document.text for document in read_documents(path, field)]


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def zstandard(data: bytes) -> bytes:
    import pyarrow

    packed: bytes = pyarrow.compress(data, "zstd", asbytes=True)
    return packed


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "a.md.xz", "a.xz", "a.zst", "A.TXT"])
def test_text_files_are_one_document_exactly(tmp_path: Path, name: str) -> None:
    data = b"one\r\ntwo\n\n  <|endoftext|> not alone in its line\n"
    packed = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard}.get(Path(name).suffix, bytes)
    path = write(tmp_path / name, packed(data))
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
    folder = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps({"id": i, "body": row}, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows))
    write(folder / "a.jsonl", lines + "\n")
    write(folder / "a.jsonl.gz", gzip.compress(lines.encode(), mtime=0))
    write(folder / "a.json.zst", zstandard(json.dumps([{"body": row} for row in rows]).encode()))
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows([["id", "body"], *enumerate(rows)])
    parquet(folder / "a.parquet", id=range(len(rows)), body=rows)
    for path in folder.iterdir():
        if path.suffix not in (".csv", ".tsv") or "\0" not in "".join(rows):
            assert texts(path, "body") == rows


def test_sources_name_the_line(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", '{"text": "x"}\n\n{"text": "y"}\n')
    table = write(tmp_path / "a.csv", 'text\n"two\nlines"\nnext\n')
    assert [d.source for d in read_documents(lines)] == [f"{lines}:1", f"{lines}:3"]
    assert [d.source for d in read_documents(table)] == [f"{table}:2", f"{table}:4"]


FAULTS: list[tuple[str, bytes, str]] = [
    ("a.txt", b"good\nba\xffd", "offset 7"),
    ("a.txt", b"\xef\xbb\xbfa\xff", "offset 4"),
    ("a.txt", b"one\n<|endoftext|>\nt\xc3", "offset 19"),
    ("a.txt.gz", gzip.compress(b"ab\xff", mtime=0), "offset 2"),
    ("a.py", b"x = 1\n\n\ny = '\xff'", "offset 13"),
    ("a.py", b"'\xff'", "offset 1"),
    ("a.py", b"# coding: ascii\nx = '\xff'", "offset 21"),
    ("a.py", b"# coding: no-such\n", "no-such"),
    ("a.py", b"# coding: hex\n", "hex"),
    ("a.py", b"# coding: unicode_escape\n'\\ud800'", "\\ud800"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "offset 24"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', 'a.jsonl:2: no field "text"'),
    ("a.jsonl", b'{"text": "a"}\n\n{"text": 5}', 'a.jsonl:3: the field "text" is int'),
    ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl:2:"),
    ("a.jsonl", b"[1]", "a.jsonl:1:"),
    ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1: \\ud800"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "a", "n": ' + b"9" * 5000 + b"}", "a.jsonl:2:"),
    ("a.json", b"[" * 100_000, "a.json:"),
    ("a.json", b'{"text": "a"}', "a.json:"),
    ("a.json", b'[{"text": "a"}, 1]', "row 2"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0)[:-9], "a.jsonl.gz:"),
    ("a.txt.gz", b"plain", "a.txt.gz:"),
    ("a.txt.xz", lzma.compress(b"text")[:-4], "a.txt.xz:"),
    ("a.txt.zst", b"plain", "a.txt.zst:"),
    ("a.csv", b"body,x\n1,2\n", 'a.csv:1: no column "text"'),
    ("a.csv", b"", 'a.csv:1: no column "text"'),
    ("a.csv", b"text,text\n1,2\n", "a.csv:1:"),
    ("a.csv", b"x,text\n1,a\n2\n", "a.csv:3: 1 cells under 2 columns"),
    ("a.csv", b"x,text\n1,Yes, and no\n", "a.csv:2: 3 cells under 2 columns"),
    ("a.csv", b"text\nYes, and no\n", "a.csv:2: 2 cells under 1 columns"),
    ("a.csv", b'text\n"open', "a.csv:2:"),
    ("a.csv", b"text\na\nb\xff\n", "offset 8"),
    ("a.parquet", b"text", "a.parquet:"),
    ("a.doc", b"text", "'.doc'"),
    ("a.tar.gz", b"text", "'.gz'"),
    ("a.parquet.gz", b"text", "'.gz'"),
]


@pytest.mark.parametrize(("name", "data", "place"), FAULTS)
def test_faults_are_named_with_their_place(tmp_path: Path, name: str, data: bytes, place: str) -> None:
    with refused(tmp_path, place):
        list(open_corpus(str(write(tmp_path / name, data))))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with refused("gone.txt"):
        list(read_documents(tmp_path / "gone.txt"))


def parquet(path: Path, **columns: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow

    path = parquet(tmp_path / "a.parquet", text=["a", None])
    with refused("a.parquet", "body"):
        texts(path, "body")
    with refused("a.parquet: row 2", "text"):
        texts(path)
    raw = pyarrow.array([b"a", b"caf\xe9"], pyarrow.binary())
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 2, raw.buffers())
    with refused("b.parquet: row 2"):
        texts(parquet(tmp_path / "b.parquet", text=broken))
    assert texts(parquet(tmp_path / "c.parquet", text=["a", "b"], other=broken)) == ["a", "b"]
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with refused("a.parquet", "langwright[data]"):
        texts(path)


def test_columns_that_python_cannot_hold_are_not_read(tmp_path: Path) -> None:
    import pyarrow

    far = pyarrow.array([10**15], pyarrow.timestamp("ms"))
    zone = pyarrow.array([1], pyarrow.timestamp("s", tz="Nowhere/Land"))
    path = parquet(tmp_path / "a.parquet", text=["a"], far=far, zone=zone)
    assert texts(path) == ["a"]
    for field in ("far", "zone"):
        with refused("a.parquet: row 1"):
            texts(path, field)


def test_a_nested_cell_of_parquet_is_what_json_holds(tmp_path: Path) -> None:
    """Rows of one schema: the nulls that it adds are gone, maps are objects, dates are text."""
    import pyarrow

    one, two = {"name": "f", "at": date(2026, 1, 2)}, {"name": "g", "more": [{"x": None, "y": 1}]}
    maps = pyarrow.array([[("k", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    path = parquet(tmp_path / "a.parquet", call=[one, two], map=maps, count=[1, None])
    assert [row.values for row in read_rows(path, ("call", "map", "count"))] == [
        {"call": {"name": "f", "at": "2026-01-02"}, "map": {"k": 1}, "count": 1},
        {"call": {"name": "g", "more": [{"y": 1}]}, "map": [], "count": None},
    ]


def test_long_cells_are_read(tmp_path: Path) -> None:
    text = "x" * 300_000
    assert texts(write(tmp_path / "a.csv", f"text\n{text}\n")) == [text]


PIECES = st.sampled_from(
    [b'"', b",", b"\n", b"\r", b"\0", b"{", b"}", b"[", b"]", b":", b"\\ud800", b"\\", b"\xff", b"\xc3", b"text",
     b'{"text": "a"}', b'{"text": null}', b"# coding: ", b"utf-7", b"idna", b"9" * 4400, b"<|endoftext|>", b"nan", b" "]
)  # fmt: skip


@pytest.mark.parametrize("ending", [*TEXTS, *ROWS])
@given(start=st.sampled_from([b"", b"text\n", b"\xef\xbb\xbf", b"PAR1"]), pieces=st.lists(PIECES, max_size=12))
@settings(max_examples=60)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, ending: str, start: bytes, pieces: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    data = start + b"".join(pieces)
    for name, packed in (("", data), (".gz", gzip.compress(data, mtime=0)[:-1]), (".xz", data), (".zst", data)):
        try:
            for text in texts(write(folder / f"a{ending}{name}", packed)):
                text.encode()
        except UserError as error:
            assert "\n" not in str(error)
            assert str(folder) in str(error)
