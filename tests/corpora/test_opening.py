"""What the user writes becomes the right corpus, or an error that helps."""

import errno
import gzip
import json
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from langwright.corpora.document import Corpus, Document
from langwright.corpora.hub import parse_hub_spec
from langwright.corpora.labelled import Columns, read_labelled
from langwright.corpora.opening import open_corpus
from langwright.corpora.parts import part_of, parts_in, parts_to_learn
from langwright.corpora.tagged import read_tagged

from ..refusals import refused


def sources(corpus: Corpus) -> list[str]:
    return [Path(document.source).name for document in corpus]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ["b.txt", "a.md", "sub/c.py", "sub/deep/d.txt", ".hidden/e.txt", ".f.txt", "g.png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    (tmp_path / "empty.txt").touch()
    return tmp_path


def test_a_folder_is_read_sorted_with_all_below_it(folder: Path) -> None:
    corpus = open_corpus(str(folder))
    assert sources(corpus) == ["a.md", "b.txt", "c.py", "d.txt"]
    assert sources(corpus) == ["a.md", "b.txt", "c.py", "d.txt"]  # again
    assert corpus.record()["files"] == 5
    assert corpus.record()["documents"] == 4


def test_a_folder_that_cannot_be_read_is_not_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def guarded(path: Any) -> Any:
        if str(path).endswith(("sub", ".hidden")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with refused(folder / "sub", "Permission denied"):
        open_corpus(str(folder))


def test_globs_and_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources(open_corpus(str(folder / "*.txt"))) == ["b.txt"]
    assert sources(open_corpus(str(folder / "**" / "*.txt"))) == ["b.txt", "d.txt"]
    assert sources(open_corpus(str(folder / "b.txt"))) == ["b.txt"]
    monkeypatch.chdir(folder)
    assert sources(open_corpus("sub")) == ["c.py", "d.txt"]
    (folder / "tinyshakespeare").mkdir()
    with refused("./tinyshakespeare"):
        open_corpus("./tinyshakespeare")


def test_the_field_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "yes", "text": "no"}')
    assert [d.text for d in open_corpus(str(tmp_path), field="body")] == ["yes"]


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("tinyshakespear", ['did you mean "tinyshakespeare"', "python-stdlib"]),
        ("no/such.txt", []),
        ("owner/name", ["hf:owner/name"]),
        ("~/no/such/folder/here", []),
        ("x" * 5000, []),
        ("nothing-*.txt", []),
        ("g.png", ["'.png'"]),
        ("g.*", ["g.png"]),
        (".hidden/none", []),
        ("hf:", []),
        ("hf:a/b:c:train:more", []),
    ],
)
def test_what_cannot_be_opened_is_explained(
    folder: Path, spec: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with refused(spec if "*" not in spec else "", *names):
        open_corpus(spec)


def test_an_empty_corpus_is_an_error(folder: Path) -> None:
    corpus = open_corpus(str(folder / "empty.txt"))
    for read in (corpus.record, lambda: list(corpus)):
        with refused("empty.txt"):
            read()


def test_the_record_identifies_the_content_alone(tmp_path: Path) -> None:
    def record(name: str, *texts: str) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / name / f"{i}.txt").write_text(text)
        return open_corpus(str(tmp_path / name)).record()

    first = record("a", "né", "two")
    assert first["name"] == str(tmp_path / "a")
    assert (first["kind"], first["documents"], first["characters"], first["bytes"]) == ("files", 2, 5, 6)
    assert record("b", "né", "two")["hash"] == first["hash"]
    hashes = {
        first["hash"],
        *(record(str(i), *texts)["hash"] for i, texts in enumerate([["two", "né"], ["nétwo"], ["n", "étwo"]])),
    }
    assert len(hashes) == 4


def test_the_standard_library_is_a_corpus() -> None:
    corpus = open_corpus("python-stdlib")
    record = corpus.record()
    assert record["python"] == platform.python_version()
    assert record["kind"] == "python-stdlib"
    assert 8e6 < record["bytes"] < 25e6
    names = [document.source for document in corpus]
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert not any(
        {"test", "tests", "site-packages", "idle_test", "__pycache__"} & set(name.split("/")) for name in names
    )
    assert open_corpus("python-stdlib").record() == record


def test_downloads_are_looked_up_in_the_data_folder_first(data_folder: Path) -> None:
    shakespeare = open_corpus("tinyshakespeare")
    assert shakespeare.record()["characters"] == 1_115_394
    assert shakespeare.record()["kind"] == "download"
    assert open_corpus("tinystories").record()["documents"] == 6235


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("hf:o/n", ("o/n", None, "train")),
        ("hf:o/n:validation", ("o/n", None, "validation")),
        ("hf:o/n:train[:1000]", ("o/n", None, "train[:1000]")),
        ("hf:o/n:wikitext-2-raw-v1", ("o/n", "wikitext-2-raw-v1", "train")),
        ("hf:o/n:20231101.en:test[10%:20%]", ("o/n", "20231101.en", "test[10%:20%]")),
        ("hf:o/n:config:odd", ("o/n", "config", "odd")),
    ],
)
def test_hub_specifications(spec: str, parsed: tuple[str, str | None, str]) -> None:
    assert parse_hub_spec(spec) == parsed


def use_datasets(monkeypatch: pytest.MonkeyPatch, answer: dict[str, list[Any]] | Exception) -> list[Any]:
    """The few things of `datasets` that are used. answer: the columns of the data set, or what loading it raises."""
    asked: list[Any] = []

    def load_dataset(name: str, config: str | None, split: str) -> SimpleNamespace:
        asked.append((name, config, split))
        if isinstance(answer, Exception):
            raise answer
        rows = [dict(zip(answer, row, strict=True)) for row in zip(*answer.values(), strict=True)]
        return SimpleNamespace(column_names=list(answer), select_columns=lambda names: rows)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))  # type: ignore[arg-type]
    return asked


def test_a_hub_data_set_is_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = use_datasets(monkeypatch, {"id": [1, 2], "story": ["a", "b"]})
    corpus = open_corpus("hf:o/n:test", field="story")
    assert asked == [("o/n", None, "test")]
    assert list(corpus) == [Document("a", "hf:o/n:test row 0"), Document("b", "hf:o/n:test row 1")]
    assert corpus.record()["kind"] == "hub"


def test_a_folder_is_not_taken_for_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_datasets(monkeypatch, {"text": ["a"]})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o/n").mkdir(parents=True)
    with refused("hf:o/n", "./o/n"):
        open_corpus("hf:o/n")


def test_hub_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    use_datasets(monkeypatch, {"id": [1]})
    with refused("hf:o/n", "text", "id"):
        open_corpus("hf:o/n")
    with refused("row 0", "id"):
        list(open_corpus("hf:o/n", field="id"))
    use_datasets(monkeypatch, RuntimeError("not found\nlong story"))
    with refused("hf:o/n", "not found"):
        open_corpus("hf:o/n")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("langwright[data]"):
        open_corpus("hf:o/n")


def test_a_real_data_set_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: rows)
    assert [document.text for document in open_corpus("hf:o/n")] == ["one", "two"]


def test_rows_of_the_hub_for_tasks_have_their_parts_and_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    labels = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})

    def part(*labelled: tuple[str, int]) -> Any:
        texts, numbers = zip(*labelled, strict=True)
        return datasets.Dataset.from_dict({"text": texts, "label": numbers}, features=labels)

    loaded = datasets.DatasetDict(
        train=part(("fine", 1), ("grim", 0)), validation=part(("warm", 1)), test=part(("hidden", -1))
    )
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, config, split: loaded if split is None else loaded[split]
    )
    assert parts_in("hf:o/n") == {"train", "dev", "test"}
    assert parts_to_learn("hf:o/n") == ("hf:o/n#train", "hf:o/n#dev")
    rows = read_labelled("hf:o/n#train", Columns())
    assert [(row.text, row.label) for row in rows] == [("fine", "good"), ("grim", "bad")]
    assert [row.label for row in read_labelled("hf:o/n:validation", Columns())] == ["good"]
    assert "o/n" in rows[0].source
    with refused("o/n", ":4", '"label"'):
        read_labelled("hf:o/n#test", Columns())


ROWS = ["train,fine,good", "train,grim,bad", "valid,warm,good", "Test,sour,?"]


@pytest.mark.parametrize("column", ["split", " Split"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json", "rows.jsonl.gz"])
def test_a_column_says_which_part_a_row_belongs_to(name: str, column: str, tmp_path: Path) -> None:
    path, cells = tmp_path / name, [[column, "text", "label"], *(row.split(",") for row in ROWS)]
    rows = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    text = {
        "csv": "".join(",".join(row) + "\n" for row in cells),
        "tsv": "".join("\t".join(row) + "\n" for row in cells),
        "json": json.dumps(rows),
    }.get(path.suffix[1:], "".join(json.dumps(row) + "\n" for row in rows))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    assert parts_to_learn(str(path)) == (f"{path}#train", f"{path}#dev")
    assert parts_to_learn(str(path), split="10%") == (f"{path}#train", None)
    assert part_of(str(path), "test") == f"{path}#test"
    assert parts_to_learn(f"{path}#dev") == (f"{path}#dev", None)
    texts = {part: [row.text for row in read_labelled(f"{path}#{part}")] for part in ("train", "validation", "test")}
    assert texts == {"train": ["fine", "grim"], "validation": ["warm"], "test": ["sour"]}
    with refused("rows", '"tests"', "test"):
        read_labelled(f"{path}#tests")


def test_rows_of_unknown_parts_are_not_learnt_from_in_silence(tmp_path: Path) -> None:
    odd, loose = tmp_path / "odd.jsonl", tmp_path / "loose.tsv"
    odd.write_text(
        "".join(f'{{"text": "a{n}", "split": "{part}"}}\n' for n, part in enumerate(["train", "test", "more"]))
    )
    with refused("odd.jsonl:3", "more", "train", "#train"):
        parts_to_learn(str(odd))
    assert parts_to_learn(f"{odd}#train") == (f"{odd}#train", None)
    loose.write_text('text\tlabel\tsplit\n"Oh" bee\t1\ttrain\nbee\t0\ttest\n')
    assert parts_in(str(loose)) == {"train", "test"}


def test_files_whose_rows_have_no_parts(tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"text": "a", "split": "left"}\n')
    (tmp_path / "none.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "test.jsonl").write_text('{"text": "a", "split": "test"}\n')
    (tmp_path / "a.conll").write_text("a O\n")
    for name in ("odd.jsonl", "none.jsonl", "a.conll", "nowhere.jsonl"):
        assert parts_to_learn(str(tmp_path / name)) == (str(tmp_path / name), None)
    with refused("test.jsonl", "train"):
        parts_to_learn(str(tmp_path / "test.jsonl"))
    with refused("none.jsonl:1", '"split"'):
        read_labelled(f"{tmp_path / 'none.jsonl'}#dev", required=False)
    with refused("a.conll", '"split"'):
        read_tagged(f"{tmp_path / 'a.conll'}#dev")
    with refused("odd.jsonl", '"dev"'):
        read_labelled(f"{tmp_path / 'odd.jsonl'}#dev", required=False)
