"""Rows with labels come out of whatever table holds them, and every fault is named with its row."""

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base.errors import UserError
from langwright.corpora.labelled import Columns, LabelledRow, label_names, read_labelled

from ..refusals import refused

PAIRS = [("a fine film , really", "1"), ("no laughs", "0"), ("dull , dull", "0"), ("warm", "1")]
TRIPLES = [("3", "Oil is up", "Prices rose, again."),
           ("4", "A probe lands", "It sent\npictures."), ("3", "Oil", "Down."),
           ("4", "New chip", 'They call it "fast".')]  # fmt: skip


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(path: Path, **columns: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


TABLES: dict[str, str] = {
    "sentence-label.tsv": "".join(f"{text}\t{label}\n" for text, label in PAIRS),
    "label-text.tsv": "".join(f"{label}\t{text}\n" for text, label in PAIRS),
    "header.tsv": "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in PAIRS),
    "header.csv": "id,Class,Text\n" + "".join(f'{i},{y},"{x}"\n' for i, (x, y) in enumerate(PAIRS)),
    "blank-lines.csv": "\n" + "\n\n".join(f'{label}, "{text}"' if "," not in text else f'{label},"{text}"'
                                       for text, label in PAIRS).replace(', "', ',"') + "\n",
    "rows.jsonl": lines([{"label": int(label), "text": text} for text, label in PAIRS]),
    "rows.json": json.dumps([{"id": "x", "sentiment": label, "review": text} for text, label in PAIRS]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_found_in_either_order_with_and_without_header(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / name, TABLES[name])
    assert [(row.text, row.label) for row in read_labelled(path)] == PAIRS
    out, err = capsys.readouterr()
    assert out == ""
    assert name in err.replace("\n", "")  # the guess is announced


def test_rows_name_their_lines_and_two_texts_belong_together(tmp_path: Path) -> None:
    cells = [[f'"{cell}"' for cell in (y, a, b.replace('"', '""'))] for y, a, b in TRIPLES]
    path = write(tmp_path / "news.csv", "".join(",".join(row) + "\n" for row in cells))
    rows = read_labelled(path)
    assert [(row.label, row.text, row.second) for row in rows] == TRIPLES
    assert [row.source for row in rows] == [f"{path}:{line}" for line in (1, 2, 4, 5)]
    assert rows[0].whole == "Oil is up Prices rose, again."
    titles = read_labelled(path, Columns(text_field="2", label_field="1"))
    assert [(row.text, row.second) for row in titles] == [(a, None) for _, a, _ in TRIPLES]


def test_packed_files_parquet_and_globs(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(TABLES["rows.jsonl"].encode(), mtime=0))
    parquet(tmp_path / "b.parquet", sentence=[text for text, _ in PAIRS], label=[int(label) for _, label in PAIRS])
    for spec in (tmp_path, tmp_path / "*.*"):
        assert [(row.text, row.label) for row in read_labelled(spec)] == PAIRS + PAIRS
    assert read_labelled(tmp_path / "b.parquet")[1].source.endswith("b.parquet: row 2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ham\t"Hi" she said\nspam\t"WIN\nham\tno"\nspam\tx\n', ['"Hi" she said', '"WIN', 'no"', "x"]),
        ('ham\t"open\nham\tshut"\nspam\ta\nspam\tb\n', ['"open', 'shut"', "a", "b"]),  # quoted, two rows would be one
        ('ham\t"He said ""hi"""\nspam\t"two\nlines"\nham\ta\nspam\tb\n', ['He said "hi"', "two\nlines", "a", "b"]),
    ],
)
def test_quotes_of_a_tsv_enclose_cells_or_belong_to_the_text(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert [row.text for row in read_labelled(write(tmp_path / "a.tsv", text))] == expected


def test_labels_as_they_are_meant(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in (1, 0.5, True, " x ")]
    assert [row.label for row in read_labelled(write(tmp_path / "a.jsonl", lines(rows)))] == ["1", "0.5", "true", "x"]
    path = write(tmp_path / "b.jsonl", lines([{"text": "a", "labels": ["p", "q"]}, {"text": "b", "labels": []}]))
    assert [row.labels for row in read_labelled(path, several=True)] == [("p", "q"), ()]
    ten = [LabelledRow("", None, (str(i),), "") for i in (10, 9, 10)]
    assert label_names(ten, "a") == ["9", "10"]
    with refused("a.tsv", "9"):
        label_names(ten[1:2], "a.tsv")


def test_labels_that_need_not_be_there(tmp_path: Path) -> None:
    """What `predict` reads: a column is one of labels if most of it is known."""
    known = ["0", "1"]
    labelled = write(tmp_path / "a.tsv", TABLES["sentence-label.tsv"])
    assert [row.labels for row in read_labelled(labelled, known=known, required=False)] == [(y,) for _, y in PAIRS]
    bare = write(tmp_path / "b.jsonl", lines([{"text": "a", "score": 0.5}, {"text": "b", "score": 0.7}]))
    assert [row.labels for row in read_labelled(bare, known=known, required=False)] == [(), ()]
    gaps = write(tmp_path / "c.csv", "text,label\na,1\nb,\n")
    columns = Columns(text_field="text", label_field="label")
    assert [row.labels for row in read_labelled(gaps, columns, known=known, required=False)] == [("1",), ()]
    only = write(tmp_path / "d.csv", '"x, y"\nz\n')
    assert [row.text for row in read_labelled(only, required=False)] == ["x, y", "z"]
    odd = write(tmp_path / "e.csv", "text,label\na,never seen\nb,\n")
    assert [row[:3] for row in read_labelled(odd, known=known, unread=True)] == [("a", None, ()), ("b", None, ())]
    plain = write(tmp_path / "f.txt", "one, two\n\nthree\n")
    assert [row.text for row in read_labelled(plain, unread=True)] == ["one, two", "", "three"]
    with refused("f.txt", '"body"'):
        read_labelled(plain, Columns(text_field="body"), unread=True)


def test_cells_of_several_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,x|y\nb,\nc, y \n")
    assert [row.labels for row in read_labelled(path, several=True)] == [("x", "y"), (), ("y",)]
    assert '"|"' in capsys.readouterr().err
    with refused("a.csv:2", '"x|y"', '"y"'):
        read_labelled(path, known=["x", "y"])
    with refused("b.csv:3", '"label"'):
        read_labelled(write(tmp_path / "b.csv", "text,label\na,x|y\nb,x||y\n"), several=True)
    with refused("c.csv:3", '"z"'):
        read_labelled(write(tmp_path / "c.csv", "text,label\na,x|y\nb,x|z\n"), known=["x", "y"], several=True)


FAULTS: list[tuple[str, str, Columns, tuple[str, ...]]] = [
    ("a.csv", "", Columns(), ("a.csv",)),
    ("a.jsonl", "\n", Columns(), ("a.jsonl",)),
    ("a.csv", "text,label\n", Columns(), ("a.csv", "label")),
    ("a.csv", "text,label,label\na,1,2\n", Columns(), ("a.csv:1", "label")),
    ("a.csv", "text,label\na,1\nb,2\nc\n", Columns(), ("a.csv:4", "1 cells")),
    ("a.csv", "text,label\na,1\n\nb, \n", Columns(), ("a.csv:4", '"label"')),
    ("a.csv", "text,label\na,1\n", Columns(label_field="lable"), ("a.csv", '"lable"', 'mean "label"')),
    ("a.csv", "text,label\na,1\n", Columns(text_field="3"), ("a.csv", '"3"', '"text", "label"')),
    ("a.tsv", "a\t1\nb\t0\n", Columns(text_field="body"), ("a.tsv", '"body"')),
    ("a.csv", "comment,verdict\na,1\nb,2\nc,1\nd,2\n", Columns(), ("a.csv:1", '"verdict"', "--label-field")),
    ("a.csv", "1,2,3,4\n1,2,4,5\n", Columns(), ("a.csv", "--label-field")),
    ("a.jsonl", lines([{"text": "a", "label": 1}, {"text": "b"}]), Columns(), ("a.jsonl:2", '"label"')),
    ("a.jsonl", lines([{"text": "a", "label": 1}, {"text": "b", "label": None}]), Columns(), ("a.jsonl:2", '"label"')),
    ("a.jsonl", '{"text": "a", "label": NaN}', Columns(), ("a.jsonl:1", '"label"')),
    ("a.jsonl", lines([{"text": "a", "label": 1}, {"label": 0}]), Columns(), ("a.jsonl:2", '"text"')),
    ("a.jsonl", lines([{"text": 7, "label": 1}]), Columns(), ("a.jsonl:1", '"text"', "int")),
    ("a.jsonl", lines([{"text": "a", "label": ["x"]}]), Columns(), ("a.jsonl:1", '"label"', "list")),
    ("a.jsonl", lines([{"text": "a", "label": {}}]), Columns(), ("a.jsonl:1", '"label"', "dict")),
    ("a.jsonl", lines([{"kind": "a", "body": "b"}]), Columns(), ("a.jsonl", "--label-field", '"kind"')),
    ("a.jsonl", lines([{"label": "a", "x": "b", "y": "c"}]), Columns(), ("a.jsonl", "--text-field", '"x"')),
    ("a.txt", "a", Columns(), ("a.txt",)),
]


@pytest.mark.parametrize(("name", "text", "columns", "places"), FAULTS)
def test_faults_are_named_with_their_place(
    tmp_path: Path, name: str, text: str, columns: Columns, places: tuple[str, ...]
) -> None:
    with refused(tmp_path, *places):
        read_labelled(write(tmp_path / name, text), columns)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@given(data=st.binary(max_size=60) | st.text('ab1"\t,\n', max_size=40).map(str.encode), known=st.booleans())
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, ending: str, data: bytes, known: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a.{ending}"
    path.write_bytes(data)
    for required in (True, False):
        with contextlib.suppress(UserError):
            for row in read_labelled(path, known=["a", "1"] if known else None, required=required):
                assert len(row.labels) == 1 or not required


def test_an_unknown_label_is_named_with_its_row(tmp_path: Path) -> None:
    for name in ("sentence-label.tsv", "rows.jsonl"):
        path = write(tmp_path / name, TABLES[name])
        with refused(f"{path}:2", '"0"', '"1"'):
            read_labelled(path, known=["1", "2"])


def test_real_sets(data_folder: Path) -> None:
    found = {}
    for name in ("sst2_train.tsv", "sms_spam.tsv", "ag_news_test.csv", "imdb_sample.jsonl.gz"):
        rows = read_labelled(data_folder / "classify" / name)
        found[name] = (len(rows), label_names(rows, name), rows[0].second is not None)
    assert found == {
        "sst2_train.tsv": (6920, ["0", "1"], False),
        "sms_spam.tsv": (5574, ["ham", "spam"], False),
        "ag_news_test.csv": (7600, ["1", "2", "3", "4"], True),
        "imdb_sample.jsonl.gz": (2600, ["neg", "pos"], False),
    }
