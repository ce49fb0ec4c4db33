"""langwright baseline: each kind on files, its names in JSON, and what it refuses."""

import json
import math
from pathlib import Path

import pytest

from ..refusals import Fails, Prints

GOOD, BAD = ("good", "fine", "warm", "bright"), ("bad", "dull", "cold", "flat")


@pytest.fixture
def rows(tmp_path: Path) -> tuple[Path, Path]:
    """Sentences with 0 or 1 to learn from, and others to measure on."""
    texts = [
        f"a {a} film , {b} and well made {i}\t1" for i, (a, b) in enumerate(zip(GOOD, GOOD[1:] + GOOD[:1], strict=True))
    ]
    texts += [
        f"a {a} story , {b} and too long {i}\t0" for i, (a, b) in enumerate(zip(BAD, BAD[1:] + BAD[:1], strict=True))
    ]
    train, test = tmp_path / "train.tsv", tmp_path / "test.tsv"
    train.write_text("\n".join(texts * 2) + "\n")
    test.write_text("a fine and bright film\t1\na flat , dull story\t0\nwell made , good\t1\n")
    return train, test


@pytest.mark.parametrize("kind", ["one-hot", "bag-of-words", "gzip-knn"])
def test_classifiers(kind: str, rows: tuple[Path, Path], prints: Prints) -> None:
    result = json.loads(prints("baseline", kind, *rows, "--json"))
    assert result["accuracy"] == result["macro_f1"] == 1
    assert (result["labels"], result["rows"], result["test_rows"]) == (2, 16, 3)
    assert result["commonest_accuracy"] == pytest.approx(1 / 3)  # "0" of two equally common ones
    few = json.loads(prints("baseline", kind, rows[0], "--split", "0.75", "--per-class", "2", "--json"))
    assert (few["rows"], few["test_rows"]) == (4, 4)
    assert "accuracy" in prints("baseline", kind, *rows)


def test_the_fault_of_two_neighbours_shows(tmp_path: Path, prints: Prints) -> None:
    """Each text is in the training file under both labels: two neighbours always disagree."""
    train, test = tmp_path / "train.tsv", tmp_path / "test.tsv"
    texts = ["the cat sat on the mat", "prices rose again", "a probe landed on mars", "rain is to come"]
    train.write_text("".join(f"{text}\t{label}\n" for text in texts for label in "ab"))
    test.write_text("".join(f"{text}\t{label}\n" for text, label in zip(texts, "abab", strict=True)))
    result = json.loads(prints("baseline", "gzip-knn", train, test, "--json"))
    assert (result["neighbours"], result["ties"]) == (2, 4)
    assert result["accuracy_if_ties_were_right"] == 1
    assert result["accuracy"] < 1


def test_ngram_over_the_bytes_that_evaluate_measures(corpus: Path, model: Path, prints: Prints) -> None:
    theirs = json.loads(prints("evaluate", model, "--text", corpus, "--split", "20%", "--json"))
    ours = json.loads(prints("baseline", "ngram", corpus, "--split", "20%", "--json"))
    assert ours["bytes"] == theirs["bytes"]
    assert 0.27 < ours["bits_per_byte"] < 0.4  # log2(75) bits of draws in a sentence of 22 bytes are 0.28
    orders = [json.loads(prints("baseline", "ngram", corpus, corpus, "--order", n, "--json")) for n in (1, 3)]
    assert orders[0]["bits_per_byte"] > 3 > orders[1]["bits_per_byte"]


def test_words(corpus: Path, tmp_path: Path, prints: Prints) -> None:
    """The perplexity that the corpus was drawn with: five nouns, three verbs, five nouns over six words and an end."""
    train = tmp_path / "train.txt"
    train.write_text("".join(path.read_text() for path in sorted(corpus.iterdir())))
    test = tmp_path / "test.txt"
    test.write_text("one cat ATE a dog.\nOne chicken saw a zebra.\n")
    result = json.loads(prints("baseline", "ngram", train, train, "--unit", "words", "--order", "3", "--json"))
    assert result["perplexity_per_word"] == pytest.approx(75 ** (1 / 6), rel=0.02)
    states = ("--unit", "words", "--states", "6", "--iterations", "60")
    hidden = json.loads(prints("baseline", "finite-state", train, test, *states, "--json"))
    assert (hidden["words"], hidden["sentences"], hidden["unknown_words"]) == (10, 2, 1)
    text = "one cat ate a dog."
    asked = prints("baseline", "finite-state", train, *states, "--sentence", text, "--sample", "2", "--json")
    said = json.loads(asked)
    (chain,) = said["asked"]
    assert [factor["symbol"] for factor in chain["factors"]] == [*text.split(), "end"]
    assert math.prod(f["probability"] for f in chain["factors"]) == pytest.approx(2 ** chain["log2_probability"])
    assert chain["log2_probability"] == pytest.approx(-math.log2(75), abs=2)
    assert all(sample.startswith("one ") for sample in said["samples"])


def test_finite_state_counts_every_byte(corpus: Path, prints: Prints) -> None:
    quick = ("--states", "2", "--iterations", "2", "--split", "20%", "--json")
    result = json.loads(prints("baseline", "finite-state", corpus, *quick))
    assert result["bytes"] == json.loads(prints("baseline", "ngram", corpus, "--split", "20%", "--json"))["bytes"]
    assert 2 < result["bits_per_byte"] < 6


def test_grammar(tmp_path: Path, prints: Prints) -> None:
    rules, test = tmp_path / "cats.txt", tmp_path / "test.txt"
    rules.write_text("S -> NP 'ate' NP\nNP -> 'the' N [0.25] | 'John' [0.5] | 'a' N [0.25]\nN -> 'cat' | 'tuna'\n")
    test.write_text("John ate the tuna\nthe cat ate John\n")
    result = json.loads(prints("baseline", "grammar", rules, test, "--json"))
    assert (result["sentences"], result["parsed"]) == (2, 2)
    assert result["bits_per_byte"] == pytest.approx(2 * 4 / len(test.read_text()))
    test.write_text("John ate the tuna\nJohn slept\n")
    result = json.loads(
        prints("baseline", "grammar", rules, test, "--sentence", "John slept", "--sample", "3", "--json")
    )
    assert (result["parsed"], result["bits_per_byte"]) == (1, None)
    assert result["asked"] == [{"sentence": "John slept", "log2_probability": None}]
    assert all(" ate " in sample for sample in result["samples"])
    assert "P(John ate John) = 0.25" in prints("baseline", "grammar", rules, "--sentence", "John ate John")


def test_mistakes_cost_a_line(rows: tuple[Path, Path], tmp_path: Path, corpus: Path, fails: Fails) -> None:
    train, test = rows
    one, other, broken = tmp_path / "one.tsv", tmp_path / "other.tsv", tmp_path / "grammar.txt"
    one.write_text("a b\t1\nc d e\t1\n")
    other.write_text("a fine film\t1\na dull one\t2\n")
    broken.write_text("S -> NP\n")
    fails("baseline", "bigram", train, test, names="ngram")
    fails("baseline", "ngram", train, names=("TEST", "--split", "--sample"))
    fails("baseline", "ngram", corpus, corpus, "--split", "5%", names="--split")
    fails("baseline", "ngram", corpus, corpus, "--neighbours", "3", names=("--neighbours", "ngram"))
    fails("baseline", "ngram", corpus, corpus, "--order", "8", names=("--order", "7"))
    fails("baseline", "ngram", corpus, corpus, "--label-field", "x", names=("--label-field", "ngram"))
    fails("baseline", "gzip-knn", train, test, "--neighbours", "17", names=("--neighbours", "16"))
    fails("baseline", "gzip-knn", train, test, "--neighbours", "0", names="--neighbours")
    fails("baseline", "one-hot", train, test, "--per-class", "9", names=("--per-class", "8"))
    fails("baseline", "one-hot", train, other, names=("other.tsv:2", '"2"', '"0", "1"'))
    fails("baseline", "one-hot", one, test, names=("one.tsv", '"1"'))
    fails("baseline", "one-hot", train, test, "--group-field", "x", names=("--group-field", "one-hot"))
    fails("baseline", "one-hot", train, test, "--text-field", "body", names=("train.tsv", '"body"'))
    fails("baseline", "grammar", broken, "--sample", "1", names=("grammar.txt:1", "NP"))
    fails("baseline", "grammar", tmp_path / "none.txt", "--sample", "1", names="none.txt")


def test_real_sets(data_folder: Path, prints: Prints) -> None:
    sst2 = [data_folder / "classify" / f"sst2_{part}.tsv" for part in ("train", "test")]
    assert json.loads(prints("baseline", "bag-of-words", *sst2, "--json"))["accuracy"] > 0.8
