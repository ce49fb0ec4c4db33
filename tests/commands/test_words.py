"""langwright words, as a user runs it."""

import json
from pathlib import Path

import pytest

from langwright.baselines.word_vectors import read_vectors
from refusals import Fails, Prints


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from langwright.cli import main

    out = tmp_path_factory.mktemp("words") / "out"
    assert main(["words", str(corpus), str(out), "--dimension", "8", "--epochs", "2"]) == 0
    return out


def test_trained_and_asked(trained: Path, tmp_path: Path, prints: Prints) -> None:
    vectors = read_vectors(trained / "vectors.txt")
    assert set(vectors.words) == {"one", "a", "cat", "dog", "tuna", "human", "chicken", "ate", "saw", "chased"}
    assert json.loads((trained / "words.json").read_text())["vocabulary"] == 10
    questions, pairs = tmp_path / "questions.txt", tmp_path / "pairs.tsv"
    questions.write_text(": all\nCat dog ate saw\ncat dog ate read\n")
    pairs.write_text("cat\tdog\t9\nate\tdog\t2\n")
    asked = ["--analogy", "cat - dog + human", "--near", "Tuna", "--questions", questions, "--similarity", pairs]
    report = json.loads(prints("words", trained, *asked, "--top", 3, "--json"))
    assert [len(report[name]) for name in ("analogy", "near")] == [3, 3]
    assert report["near"][0] == {"word": vectors.nearest(["tuna"])[0][0], "cosine": vectors.nearest(["tuna"])[0][1]}
    assert {name: report["questions"][name] for name in ("asked", "skipped")} == {"asked": 1, "skipped": 1}
    assert report["similarity"]["pairs"] == 2
    shown = prints("words", trained, *asked)
    assert f"{report['near'][0]['cosine']:6.3f}  {report['near'][0]['word']}" in shown.splitlines()
    assert "10 words" in prints("words", trained)


def test_other_formats(trained: Path, tmp_path: Path, prints: Prints) -> None:
    binary = tmp_path / "vectors.bin"
    prints("words", trained, "--save", binary)
    assert prints("words", binary, "--near", "cat") == prints("words", trained, "--near", "cat")


def test_the_same_seed_gives_the_same_file(corpus: Path, trained: Path, tmp_path: Path, prints: Prints) -> None:
    report = json.loads(prints("words", corpus, tmp_path / "a", "--dimension", 8, "--epochs", 2, "--json"))
    assert report["training"]["vocabulary"] == 10
    assert (tmp_path / "a" / "vectors.txt").read_bytes() == (trained / "vectors.txt").read_bytes()
    prints("words", corpus, tmp_path / "b", "--dimension", 8, "--epochs", 2, "--seed", 1)
    assert (tmp_path / "b" / "vectors.txt").read_bytes() != (trained / "vectors.txt").read_bytes()


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--window", "0"], "--window 0"),
        (["--sample", "2"], "--sample 2"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--min-count", "99999"], "--min-count 99999"),
        (["--analogy", "cat dog"], "cat dog"),
        (["--top", "0"], "--top 0"),
    ],
)
def test_bad_settings(more: list[str], names: str, corpus: Path, tmp_path: Path, fails: Fails) -> None:
    fails("words", corpus, tmp_path / "out", *more, names=names)
    assert not (tmp_path / "out").exists()


def test_bad_places(corpus: Path, trained: Path, tmp_path: Path, fails: Fails) -> None:
    fails("words", tmp_path, names=(str(tmp_path), "OUT"))
    fails("words", trained, "--epochs", 3, names=("--epochs", "OUT"))
    fails("words", trained, "--near", "catt", names=("catt", "cat"))
    fails("words", corpus, trained / "words.json", names="words.json")
