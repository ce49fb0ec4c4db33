"""Tasks from the command line: rows with labels in, a model that `predict` and `transformers` use out."""

import csv
import json
import random
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from langwright import load_tokenizer
from langwright.cli import main
from langwright.corpora.augmentation import varied
from langwright.corpora.labelled import Columns, LabelledRow, label_names
from langwright.data.reading import with_special_tokens
from langwright.evaluation.tasks.classify import Classify
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import raw_bytes
from processes import survives_kills
from refusals import Fails, Prints

RUN = ["--dtype", "float32", "--context", "48", "--batch-size", "8", "--learning-rate", "0.003", "--log-every", "1"]
WORDS = {"good": ["fine", "sweet", "warm", "bright"], "bad": ["stale", "grim", "cold", "sour"]}


def base(folder: Path, family: str, tokenizer: Tokenizer | None = None) -> Path:
    tokenizer = with_special_tokens(tokenizer or raw_bytes(), mask=True)
    if family != "llama":
        tokenizer = tokenizer.framed([] if family == "t5" else [tokenizer.bos_id or 0], [tokenizer.eos_id or 0])
    config = by_depth(family, 1, tokenizer.vocab_size, 64, 0.1, width=64)
    save_model(new_model(family, config, head="masked" if family == "bert" else None), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of each kind, and rows whose label is the kind of their words."""
    folder, draw = tmp_path_factory.mktemp("made"), random.Random(0)
    for family in ("bert", "llama", "t5", "bart"):
        base(folder / family, family)
    rows = [(draw.choice(list(WORDS)), draw.sample(range(4), 2)) for _ in range(160)]
    for name, part in (("train", rows[:120]), ("valid", rows[120:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            table.writerows([f"{WORDS[label][a]}, {WORDS[label][b]}", label] for label, (a, b) in part)
    (folder / "several.jsonl").write_text(
        "".join(
            json.dumps({"text": f"{WORDS[x][a]} {WORDS[x][b]}", "labels": [x] * (a > 0)}) + "\n" for x, (a, b) in rows
        )
    )
    (folder / "number.jsonl").write_text(
        "".join(
            json.dumps({"text": f"{WORDS[x][a]}, {WORDS[x][b]}", "label": 1.5 if x == "good" else -0.5}) + "\n"
            for x, (a, b) in rows
        )
    )
    return folder


def tune(made: Path, out: Path, model: str = "bert", data: str = "train.csv", *more: str, steps: int = 40) -> list[str]:
    words = ["finetune", made / model, made / data, out, "--task", "classify", "--steps", f"{steps}", *RUN, *more]
    return [str(word) for word in words]


@pytest.mark.parametrize("model", ["bert", "llama", "t5", "bart"])
def test_it_learns_predicts_and_opens_in_transformers(model: str, made: Path, tmp_path: Path, prints: Prints) -> None:
    out, valid = tmp_path / "out", made / "valid.csv"
    told = json.loads(prints(*tune(made, out, model), "--validation", valid, "--evaluate-every", "10", "--json"))
    assert told["accuracy"] > 0.9
    assert {"loss", "macro_f1", "matthews", "auroc", "rows"} < set(told)
    measured = json.loads(prints("evaluate", out, "--data", valid, "--json", "--dtype", "float32"))
    assert measured == {name: pytest.approx(told[name], abs=1e-6) for name in measured}
    lines = [json.loads(line) for line in prints("predict", out, valid, "--dtype", "float32").splitlines()]
    assert lines == [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in csv.DictReader(valid.open())]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    for text, line in list(zip(texts, lines, strict=True))[:6]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        assert ids[0].tolist() == load_tokenizer(out).frame(text)[0]
        with torch.no_grad():
            chances = theirs(ids).logits.softmax(-1)[0].tolist()
        assert list(line["probabilities"].values()) == pytest.approx(chances, abs=1e-5)
        assert theirs.config.id2label[max(range(2), key=chances.__getitem__)] == line["label"]
    report = (out / "report.html").read_text()
    assert "Accuracy" in report


@pytest.mark.parametrize(
    ("model", "method"), [("bert", "lora"), ("bert", "head"), ("bert", "bitfit"), ("bart", "lora")]
)
def test_adapters_keep_their_heads(
    model: str, method: str, made: Path, tmp_path: Path, prints: Prints, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is new in them, whatever seed drew it."""
    out, valid = tmp_path / "out", made / "valid.csv"
    how = ["--method", method, "--validation", valid, "--seed", "3"]
    told = json.loads(prints(*tune(made, out, model), *how, "--json"))
    assert main(["predict", str(made / model), str(valid), "--adapter", str(out), "--dtype", "float32"]) == 0
    lines, said = capsys.readouterr()
    assert lines == (out / "predictions.jsonl").read_text()
    assert "classif" not in said  # the head is the adapter's, and neither new nor dropped
    measured = json.loads(prints("evaluate", made / model, "--adapter", out, "--data", valid, "--json"))
    assert measured["accuracy"] == pytest.approx(told["accuracy"], abs=0.1)


@pytest.mark.parametrize(
    ("labels", "form"),
    [(("3", "3.5"), "number"), (("0.1", "1e-05"), "number"), (("-1", "2"), "one"), (("1.5", "high"), "one")],
)
def test_labels_that_are_not_all_whole_are_numbers(labels: tuple[str, str], form: str) -> None:
    rows = [LabelledRow("text", None, (label,), "rows:1") for label in labels]
    assert Classify.begin(rows, Columns(), "rows").form == form


def test_the_order_of_labels_is_that_of_their_numbers_and_letters() -> None:
    rows = [LabelledRow("text", None, (label,), "rows:1") for label in ("1", "10", "01", "2", "001")]
    assert label_names(rows, "rows") == ["001", "01", "1", "2", "10"]


def test_several_labels_and_numbers(made: Path, tmp_path: Path, prints: Prints) -> None:
    several = json.loads(prints(*tune(made, tmp_path / "several", data="several.jsonl", steps=150), "--json"))
    assert several["macro_f1"] > 0.6
    first = json.loads(prints("predict", tmp_path / "several", made / "several.jsonl").splitlines()[0])
    assert set(first) == {"labels", "probabilities"}
    number = json.loads(
        prints(*tune(made, tmp_path / "number", data="number.jsonl", steps=60), "--split", "0.8", "--json")
    )
    assert number["spearman"] > 0.7
    assert set(json.loads(prints("predict", tmp_path / "number", made / "number.jsonl").splitlines()[0])) == {"value"}
    for name in ("several", "number"):
        record = json.loads((tmp_path / name / "langwright.json").read_text())
        worst = [row["error"] for row in record["details"]["errors"]]
        assert worst == sorted(worst, reverse=True)
        assert worst[0] > 0
        assert "Examples of errors" in (tmp_path / name / "report.html").read_text()
    texts = tmp_path / "texts.txt"
    texts.write_text("fine, sweet\n\nstale, grim\n")
    assert len(prints("predict", tmp_path / "number", texts).splitlines()) == 3


def test_scores_of_rows_with_one_label_are_quiet() -> None:
    rows = [LabelledRow("text", None, ("a",), "rows:1")] * 3
    answers = [{"label": "a", "probabilities": {"a": 0.9, "b": 0.1}}] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = Classify(Columns(), ("a", "b")).score(rows, answers)
    assert (scores["accuracy"], scores["matthews"]) == (1, 0)


def test_the_best_weights_are_kept_and_nothing_better_ends_the_run(made: Path, tmp_path: Path, prints: Prints) -> None:
    out = tmp_path / "out"
    every = ["--evaluate-every", "5", "--patience", "2", "--validation", str(made / "valid.csv")]
    told = json.loads(prints(*tune(made, out, steps=200), *every, "--json"))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scores = [row["validation_accuracy"] for row in rows if "validation_accuracy" in row]
    assert told["accuracy"] == max(scores)
    record = json.loads((out / "langwright.json").read_text())
    assert record["steps"] < 200
    assert "nothing got better" in [event["event"] for event in record["events"]]
    before = (out / "model.safetensors").read_bytes()
    assert main([*tune(made, out, steps=200), *every]) == 0  # finished: nothing is done again
    assert (out / "model.safetensors").read_bytes() == before


def test_a_column_split_says_what_is_learnt_and_what_is_measured(
    made: Path, tmp_path: Path, prints: Prints, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.DictReader((made / "train.csv").open()))
    parts = ["train"] * 80 + ["validation"] * 20 + ["test"] * 20
    rows = [row | {"split": part} for row, part in zip(rows, parts, strict=True)]
    rows[-1]["label"] = "never seen"
    data, out = tmp_path / "rows.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = json.loads(
        prints(*tune(made, out, "llama", steps=2)[:2], data, out, *tune(made, out, steps=2)[4:], "--json")
    )
    assert told["rows"] == 20
    dev = json.loads(prints("evaluate", out, "--data", f"{data}#dev", "--json", "--dtype", "float32"))
    assert dev["accuracy"] == pytest.approx(told["accuracy"])
    assert len(prints("predict", out, f"{data}#dev").splitlines()) == 20
    assert main(["evaluate", str(out), "--data", str(data)]) == 2
    assert "never seen" in capsys.readouterr().err
    rows[-1]["label"] = "good"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = json.loads(prints("evaluate", out, "--data", data, "--resamples", "50", "--json"))
    assert whole["rows"] == 20
    assert whole["intervals"]["accuracy"][0] <= whole["accuracy"]
    assert json.loads(prints("baseline", "bag-of-words", data, "--json"))["test_rows"] == 20


def test_pairs_get_the_types_of_transformers(made: Path, tmp_path: Path, prints: Prints) -> None:
    out, data = tmp_path / "out", tmp_path / "pairs.jsonl"
    pairs = [("a fine day", "fine"), ("it is cold", "warm, and more"), ("sour", "grim")] * 8
    rows = [{"sentence1": a, "sentence2": b, "label": i % 2} for i, (a, b) in enumerate(pairs)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["finetune", made / "bert", data, out, "--task", "classify", "--steps", "3", "--split", "0.8", *RUN]
    prints(*words)
    lines = [json.loads(line) for line in prints("predict", out, data, "--dtype", "float32").splitlines()]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    for (first, second), line in zip(pairs[:3], lines, strict=False):
        asked = tokenizer(first, second, return_tensors="pt", return_token_type_ids=True)
        assert asked["token_type_ids"].sum() == len(second) + 1
        with torch.no_grad():
            chances, plain = (
                theirs(**given).logits.softmax(-1)[0] for given in (asked, {"input_ids": asked["input_ids"]})
            )
        assert list(line["probabilities"].values()) == pytest.approx(chances.tolist(), abs=1e-5)
        assert not torch.allclose(chances, plain, atol=1e-5)
    prints("finetune", made / "llama", *words[2:3], tmp_path / "decoder", *words[4:])  # which knows no types


def test_texts_are_varied_by_seed_epoch_and_row() -> None:
    names, text = ["synonyms", "deletion", "swap", "typos"], "a quick question about the old text"
    assert varied(text, names, "0:1:2") == varied(text, names, "0:1:2")
    found = {varied(text, names, f"0:{epoch}:2") for epoch in range(40)}
    assert text in found
    assert len(found) > 10


@pytest.mark.parametrize("more", [["--augment", "deletion,typos"], ["--unfreeze-every", "4 steps"]])
def test_killed_and_run_again_it_ends_with_the_same_bytes(more: list[str], made: Path, tmp_path: Path) -> None:
    every = ["--save-every", "3", "--evaluate-every", "3", "--validation", str(made / "valid.csv"), *more]
    survives_kills(lambda out: [*tune(made, tmp_path / out, steps=14), *every], tmp_path, [7])


def test_the_head_and_the_last_layer_learn_first(made: Path, tmp_path: Path, prints: Prints) -> None:
    prints(*tune(made, tmp_path, steps=2), "--unfreeze-every", "2 steps")
    before, after = (load_file(folder / "model.safetensors") for folder in (made / "bert", tmp_path))
    still = {name for name, tensor in before.items() if name in after and torch.equal(tensor, after[name])}
    assert still == {name for name in after if name.startswith("bert.embeddings.")}


@pytest.mark.parametrize(
    ("rows", "more", "named"),
    [
        ("text,label\na,x\nb,x\n", [], ["rows.csv", '"x"']),
        ("text,label\na,x\nb,\n", [], ["rows.csv:3"]),
        ("text,label\na,x\n,y\n", ["--label-field", "mood"], ["rows.csv", '"mood"', '"label"']),
        ("text,label\n", [], ["rows.csv"]),
        ("text,label\na,x\nb,y\n", ["--validation", "nowhere.csv"], ["nowhere.csv"]),
        ("text,label\na,x\nb,y\n", ["--crossing"], ["--crossing"]),
        ("text,label\na,x\nb,y\n", ["--patience", "0"], ["--patience"]),
        ("text,label\na,x\nb,y\n", ["--augment", "typo", "--split", "0.5"], ["--augment", "typos"]),
        ("text,label\na,x\nb,y\n", ["--old-text", "x.txt"], ["--old-text"]),
        ("text,label\na,x\nb,y\n", ["--z-loss", "0.1", "--split", "0.5"], ["--z-loss", "classify"]),
        ("text,label\na,x|y\nb,y\n", ["--smoothing", "0.1", "--split", "0.5"], ["--smoothing", "classify"]),
        ("text,label\na,0.5\nb,1\n", ["--smoothing", "0.1", "--split", "0.5"], ["--smoothing", "classify"]),
    ],
)
def test_bad_rows_are_refused_in_one_line(
    rows: str, more: list[str], named: list[str], made: Path, tmp_path: Path, fails: Fails
) -> None:
    (tmp_path / "rows.csv").write_text(rows)
    words = ["finetune", made / "bert", tmp_path / "rows.csv", tmp_path / "out", "--task", "classify", *RUN]
    fails(*words, *more, names=tuple(named))


def test_models_and_labels_that_do_not_fit_are_refused(
    made: Path, tmp_path: Path, prints: Prints, fails: Fails
) -> None:
    (tmp_path / "odd.csv").write_text("text,label\nfine,good\nsour,ugly\n")
    assert main(tune(made, tmp_path / "out", steps=1)) == 0
    fails("evaluate", tmp_path / "out", "--data", tmp_path / "odd.csv", names=("odd.csv:3", '"ugly"'))
    fails("predict", made / "bert", made / "valid.csv", names=("bert", "masked"))
    fails("evaluate", tmp_path / "out", names=("--text", "--data"))
    for more in (("--split", "5%"), ("--context", "16"), ("--field", "x"), ("--experts",)):
        fails("evaluate", tmp_path / "out", "--data", made / "valid.csv", *more, names=(more[0], "--data"))
    assert len(prints("predict", tmp_path / "out", tmp_path / "odd.csv").splitlines()) == 2  # whatever its labels
    fails("finetune", made / "bert", made / "train.csv", tmp_path / "x", "--validation", "v", names=("--validation",))
