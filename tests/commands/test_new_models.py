"""Models that rows with labels alone are enough for: finetune new:FAMILY."""

import csv
import json
import random
from pathlib import Path

import pytest

from langwright import load_model, load_tokenizer
from langwright.cli import main
from processes import survives_kills
from refusals import Fails, Prints

WORDS = {"good": ["fine", "sweet", "warm", "bright"], "bad": ["stale", "grim", "cold", "sour"]}
RUN = ["--dtype", "float32", "--context", "16", "--depth", "1", "--vocabulary", "300", "--log-every", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose label is the kind of their words, and pairs whose targets are their sources turned round."""
    folder, draw = tmp_path_factory.mktemp("made"), random.Random(0)
    for name, count, first in (("train", 120, "Some"), ("valid", 40, "Unread")):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for _ in range(count):
                label = draw.choice(list(WORDS))
                table.writerow([f"{first} {' '.join(draw.sample(WORDS[label], 2))}", label])
    pairs = [draw.sample("abcdefgh", 2) for _ in range(120)]
    (folder / "rows.ab").write_text("".join(f"{a} {b}\n" for a, b in pairs))
    (folder / "rows.ba").write_text("".join(f"{b} {a}\n" for a, b in pairs))
    return folder


def tune(family: str, out: Path, data: Path, task: str = "classify", steps: int = 60) -> list[str]:
    words = ["finetune", f"new:{family}", data, out, "--task", task, "--steps", f"{steps}", *RUN]
    return [str(word) for word in words]


@pytest.mark.parametrize(("family", "rate"), [("cnn", 0.005), ("lstm", 0.005), ("bert", 0.001), ("llama", 0.002)])
def test_rows_alone_make_a_classifier(family: str, rate: float, made: Path, tmp_path: Path, prints: Prints) -> None:
    out, valid = tmp_path / "out", made / "valid.csv"
    words = [*tune(family, out, made / "train.csv"), "--learning-rate", f"{rate}"]
    told = json.loads(prints(*words, "--validation", valid, "--json"))
    assert told["accuracy"] > 0.85
    assert json.loads(prints("evaluate", out, "--data", valid, "--json"))["accuracy"] == told["accuracy"]
    tokenizer, model = load_tokenizer(out), load_model(out)
    assert (model.family, len(model.body.blocks), model.vocabulary) == (family, 1, tokenizer.vocab_size)
    assert model.labels == ("bad", "good")
    of_words = family in ("cnn", "lstm")
    assert (tokenizer.decode(tokenizer.encode("Some fine")) == "some fine") == of_words
    if of_words:  # made from the rows that are learnt, not from those that are held out
        assert tokenizer.decode(tokenizer.encode("unread")) == "<unk>"
    record = json.loads((out / "langwright.json").read_text())
    assert record["base_folder"] == record["base"] == f"new:{family}"


@pytest.mark.parametrize(("family", "rate"), [("cnn", 1 / 64), ("bert", 0.2 / 64)])
def test_the_usual_learning_rate_is_that_of_pretraining(family: str, rate: float, made: Path, tmp_path: Path) -> None:
    flat = ["--schedule", "trapezoid", "--warmup", "0", "--decay", "0"]
    assert main([*tune(family, tmp_path / "out", made / "train.csv", steps=2), *flat]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["learning_rate"] == pytest.approx(rate)


def test_pairs_alone_make_a_translator(made: Path, tmp_path: Path, prints: Prints) -> None:
    out, pairs = tmp_path / "out", made / "rows"
    words = tune("marian", out, Path(f"{pairs}.ab::{pairs}.ba"), "translate", steps=150)
    told = json.loads(prints(*words, "--tokenizer", "words", "--learning-rate", "0.003", "--json"))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert told["loss"] < 0.6 * rows[0]["loss"]
    assert len(prints("predict", out, f"{pairs}.ab").splitlines()) == 120


def test_killed_and_run_again_it_ends_with_the_same_bytes(made: Path, tmp_path: Path) -> None:
    every = ["--save-every", "3", "--evaluate-every", "3", "--dropout", "0.1", "--validation", str(made / "valid.csv")]
    survives_kills(lambda out: [*tune("lstm", tmp_path / out, made / "train.csv", steps=12), *every], tmp_path, [5])


@pytest.mark.parametrize(
    ("family", "more", "named"),
    [
        ("lstn", [], ['"lstn"', '"lstm"']),
        ("bert-bas", [], ['"bert-base"']),
        ("marian", [], ["new:marian", "--task classify", "bert"]),
        ("cnn", ["--task", "text"], ["new:cnn", "pretrain"]),
        ("cnn", ["--method", "lora"], ["--method lora", "new:cnn"]),
        ("bert", ["--bits", "nf4"], ["--bits nf4", "new:bert"]),
        ("bert", ["--weight-dropout", "0.1"], ["--weight-dropout"]),
        ("bert", ["--tokenizer", "letters"], ["--tokenizer letters"]),
        ("gpt2-medium", [], ["gpt2-medium", "--depth"]),
    ],
)
def test_what_no_new_model_can_do_is_refused(
    family: str, more: list[str], named: list[str], made: Path, tmp_path: Path, fails: Fails
) -> None:
    fails(*tune(family, tmp_path / "out", made / "train.csv"), *more, names=tuple(named))
    assert not (tmp_path / "out").exists()


def test_a_model_that_exists_has_a_shape_of_its_own(untrained: Path, made: Path, tmp_path: Path, fails: Fails) -> None:
    words = ["finetune", untrained, made / "train.csv", tmp_path / "out", "--task", "classify"]
    for flag, value in (("--depth", 2), ("--vocabulary", 300), ("--tokenizer", "words"), ("--dropout", 0.1)):
        fails(*words, flag, value, names=(f"{flag} {value}", str(untrained)))
