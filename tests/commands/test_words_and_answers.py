"""Tags of words and answers in texts, from the command line: files in, models that `transformers` uses alike out."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from commands.test_tasks import RUN, base
from langwright.corpora.labelled import Columns
from langwright.corpora.questions import read_questions
from langwright.corpora.tagged import TaggedRow
from langwright.data.reading import with_special_tokens
from langwright.evaluation.tasks.qa import Questions, exact_match, normalised, word_f1
from langwright.evaluation.tasks.tokens import Tokens
from langwright.evaluation.tasks.tuning import task_data
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.opening import load_tokenizer
from langwright.text.training import raw_bytes, train_bpe
from langwright.training.recipe import FinetuneRecipe
from processes import survives_kills
from refusals import Fails, Prints

PEOPLE, TOWNS = ["Anna", "Bo", "Cem", "Dara"], ["Rome", "Oslo", "Kyiv", "Lima"]
LONG = "in Rome lives Bo and " * 12  # far more bytes than the context


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of each kind; tagged sentences, and questions about texts with and without the answer."""
    folder, draw = tmp_path_factory.mktemp("made"), random.Random(0)
    for family in ("bert", "roberta", "llama", "t5", "bart"):
        base(folder / family, family)
    whole = train_bpe([" ".join(["", *PEOPLE, *TOWNS, "left", "in", "lives", "and"])] * 9, 340)
    base(folder / "t5-words", "t5", whole)  # of bytes it would have to learn distances first, which takes T5 long
    sentences = []
    for _ in range(120):
        person, town = (draw.choice(PEOPLE), "B-PER"), (draw.choice(TOWNS), "B-LOC")
        sentences.append(draw.choice([[person, ("left", "O"), town], [("in", "O"), town, ("lives", "O"), person]]))
    conll = ["\n".join(f"{word} x {tag}" for word, tag in sentence) for sentence in sentences]
    (folder / "train.conll").write_text("-DOCSTART- x O\n\n" + "\n\n".join(conll[:90]))
    (folder / "valid.conll").write_text("\n\n".join(conll[90:]))
    (folder / "long.jsonl").write_text(json.dumps({"tokens": LONG.split()}) + "\n")
    articles = []
    for number in range(60):
        town = draw.choice(TOWNS)
        text, answers = f"{draw.choice(PEOPLE)} saw {town}.", [{"text": town, "answer_start": 0}]
        answers[0]["answer_start"] = text.index(town)
        asked: list[dict[str, Any]] = [{"id": f"{number}a", "question": "Where?", "answers": answers}]
        if number % 2:
            asked.append({"id": f"{number}b", "question": "When?", "answers": [], "is_impossible": True})
        articles.append({"title": f"t{number}", "paragraphs": [{"context": text, "qas": asked}]})
    (folder / "squad.json").write_text(json.dumps({"data": articles}))
    return folder


def tune(made: Path, out: Path, task: str, model: str = "bert", *more: object, steps: int = 60) -> list[str]:
    data = "train.conll" if task == "tokens" else "squad.json"
    words = ["finetune", made / model, made / data, out, "--task", task, "--steps", steps, *RUN, *more]
    return [str(word) for word in words]


@pytest.mark.parametrize("model", ["bert", "roberta", "llama", "t5-words"])
def test_words_get_the_tags_that_transformers_gives(model: str, made: Path, tmp_path: Path, prints: Prints) -> None:
    out, valid = tmp_path / "out", made / "valid.conll"
    told = json.loads(prints(*tune(made, out, "tokens", model, "--validation", valid), "--json"))
    assert told["entity_f1"] > 0.9
    assert {"loss", "entity_precision", "entity_recall", "accuracy", "rows"} < set(told)
    measured = json.loads(prints("evaluate", out, "--data", valid, "--json", "--dtype", "float32"))
    assert measured == {name: pytest.approx(told[name], abs=1e-6) for name in measured}
    lines = prints("predict", out, valid, "--dtype", "float32")
    assert lines == (out / "predictions.jsonl").read_text()
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    sentences = [part.split("\n") for part in valid.read_text().split("\n\n")]
    for sentence, line in list(zip(sentences, lines.splitlines(), strict=True))[:6]:
        words = [row.split()[0] for row in sentence]
        spaced = tokenizer([f" {word}" for word in words], is_split_into_words=True)  # add_prefix_space
        ids, of = load_tokenizer(out).frame_words(words)
        assert (ids, of) == (spaced["input_ids"], spaced.word_ids())
        with torch.no_grad():
            best = theirs(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        at = {word: place for place, word in enumerate(of)} if model == "llama" else {i: of.index(i) for i in of}
        assert json.loads(line)["tags"] == [theirs.config.id2label[best[at[i]]] for i in range(len(words))]
    (row,) = [json.loads(line) for line in prints("predict", out, made / "long.jsonl").splitlines()]
    assert len(row["tags"]) == len(LONG.split())  # in pieces, no word dropped
    assert row["tags"].count("B-LOC") > 6
    assert "PER" in (out / "report.html").read_text()


def test_every_word_is_in_one_piece_within_the_context(made: Path) -> None:
    tokenizer, words = load_tokenizer(made / "bert"), ["a" * n for n in (1, 30, 3, 5, 2, 9)]
    pieces = list(Tokens(Columns(), ())._pieces(words, tokenizer, 16))
    assert [word for piece in pieces for word in piece.words] == list(range(6))
    assert max(len(piece.ids) for piece in pieces) <= 16
    a = tokenizer.encode(" a")[0]
    assert all(piece.ids[at] == a for piece in pieces for at in piece.at)


def test_tags_without_entities_are_measured_by_accuracy() -> None:
    task = Tokens(Columns(), ("DET", "NOUN"))
    row = TaggedRow(("the", "cat", "sat"), ("DET", "NOUN", "NOUN"), "")
    scores = task.score([row], [{"tags": ["DET", "DET", "NOUN"]}])
    assert scores == {"accuracy": pytest.approx(2 / 3), "macro_f1": pytest.approx(2 / 3)}
    assert task.best == "accuracy"


@pytest.mark.parametrize("model", ["bert", "llama", "t5", "bart"])
def test_answers_stand_in_their_texts_as_transformers_finds_them(
    model: str, made: Path, tmp_path: Path, prints: Prints
) -> None:
    out, data = tmp_path / "out", made / "squad.json"
    told = json.loads(prints(*tune(made, out, "qa", model, "--split", "20%", steps=150), "--json"))
    assert told["f1"] > 0.6
    measured = json.loads(prints("evaluate", out, "--data", data, "--json", "--dtype", "float32"))
    assert {"exact_match", "f1", "answerable_accuracy", "rows"} == set(measured)
    rows = read_questions(data)
    lines = [json.loads(line) for line in prints("predict", out, data, "--dtype", "float32").splitlines()]
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    for row, line in list(zip(rows, lines, strict=True))[:12]:
        assert row.context[line["start"] : line["end"]] == line["answer"]
        pair = tokenizer(row.question, row.context, return_offsets_mapping=True, return_token_type_ids=True)
        types = {"token_type_ids": torch.tensor([pair["token_type_ids"]])} if model == "bert" else {}
        ids = [*pair["input_ids"], tokenizer.eos_token_id] if model == "llama" else pair["input_ids"]
        with torch.no_grad():
            scores = theirs(torch.tensor([ids]), **types)
        first, last = scores.start_logits[0].tolist(), scores.end_logits[0].tolist()
        nowhere = -1 if model == "llama" else 0
        places = pair["offset_mapping"]
        at = [i for i, side in enumerate(pair.sequence_ids()) if side == 1 and row.context[slice(*places[i])].strip()]
        score, i, j = max((first[i] + last[j], i, j) for i in at for j in at if i <= j and j - i < 4)
        if first[nowhere] + last[nowhere] >= score:
            assert line == {"answer": "", "start": 0, "end": 0}
        else:
            assert line["answer"] == row.context[places[i][0] : places[j][1]]


def test_answers_that_only_the_question_tells_are_learnt(tmp_path: Path, prints: Prints) -> None:
    """Three words stand behind three cues; the question names one of the cues."""
    tokenizer, draw = with_special_tokens(raw_bytes()), random.Random(0)
    model = new_model("llama", by_depth("llama", 2, tokenizer.vocab_size, 48, 0.0, width=64))
    save_model(model, tokenizer, tmp_path / "base")
    names, rows = [first + last for first in "BDGKLMNR" for last in "aeiou"], []
    for _ in range(640):
        cues, text, starts = draw.sample(["red", "old", "new", "big"], 3), "", {}
        for cue, name in ((cue, draw.choice(names)) for cue in cues):
            text, starts[cue] = f"{text}{cue} {name} ", (len(text) + len(cue) + 1, name)
        start, name = starts[asked := draw.choice(cues)]
        rows.append({"question": asked, "context": text.strip(), "answer": name, "start": start})
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["finetune", tmp_path / "base", data, tmp_path / "out", "--task", "qa", "--split", "0.9", "--steps", "350"]
    rates = ["--learning-rate", "0.005", "--batch-size", "16", "--dtype", "float32", "--sample-every", "0"]
    assert json.loads(prints(*words, *rates, "--json"))["exact_match"] > 0.9


def test_long_texts_are_read_in_the_parts_of_transformers(made: Path) -> None:
    ours, theirs = (load(made / "roberta") for load in (load_tokenizer, transformers.AutoTokenizer.from_pretrained))
    parts, head = ours.frame_parts("Who?", LONG, 40), len(ours.encode("Who?"))
    stride = (40 - len(ours.frame("", "")[0]) - head) // 2
    expected = theirs(
        "Who?", LONG, max_length=40, stride=stride, truncation="only_second",
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    assert [part.ids for part in parts] == expected["input_ids"]
    covered = {i for part in parts for place in part.places if place for i in range(*place)}
    assert covered == {i for i, character in enumerate(LONG) if character != " "}


@pytest.mark.parametrize(
    ("said", "truth", "exact", "f1"),
    [
        ("The Panthers!", "panthers", 1, 1),
        ("in the old town", "old town hall", 0, 2 / 3),
        ("a", "the", 1, 1),
        ("", "Rome", 0, 0),
        ("", "", 1, 1),
        ("Rome Rome", "Rome", 0, 2 / 3),
    ],
)
def test_answers_are_compared_as_squad_compares_them(said: str, truth: str, exact: float, f1: float) -> None:
    assert (exact_match(said, truth), word_f1(said, truth)) == (exact, pytest.approx(f1))
    assert normalised(" The  U.S.A. an end ") == "usa end"


@pytest.mark.parametrize("split", ["0.9", "30%"])
def test_no_text_is_on_both_sides(split: str, tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "context": f"Text {i % 21}.", "answer": "Text", "start": 0} for i in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.write_text(path.read_text() + json.dumps({**rows[0], "context": "Last text.", "start": 0, "answer": "Last"}))
    data = task_data(Questions, str(path), Columns(), FinetuneRecipe(task="qa", split=split), tmp_path)
    seen, held_out = ({row.context for row in side} for side in (data.training, data.held_out))
    assert held_out
    assert not seen & held_out


@pytest.mark.parametrize("task", ["tokens", "qa"])
def test_adapters_and_kills(task: str, made: Path, tmp_path: Path, prints: Prints) -> None:
    data = made / ("valid.conll" if task == "tokens" else "squad.json")
    out = tmp_path / "lora"
    prints(*tune(made, out, task, "bert", "--method", "lora", "--validation", data, steps=4))
    lines = prints("predict", made / "bert", data, "--adapter", out, "--dtype", "float32")
    assert lines == (out / "predictions.jsonl").read_text()
    survives_kills(lambda name: tune(made, tmp_path / name, task, "bert", "--save-every", "2", steps=8), tmp_path, [4])


def test_what_does_not_fit_is_refused_in_one_line(made: Path, tmp_path: Path, fails: Fails) -> None:
    fails(*tune(made, tmp_path / "a", "tokens", "bart"), names=('"token"', "bart", "t5"))
    fails(*tune(made, tmp_path / "a", "qa", "bert", "--smoothing", "0.1"), names=("--smoothing",))
    fails(*tune(made, tmp_path / "a", "tokens", "bert", "--context", "2"), names=("2 tokens", "--context"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Who?", "context": "Anna.", "answer": "Anna", "start": 0.5}\n')
    words = ["--task", "qa", *RUN]
    fails(
        "finetune",
        made / "bert",
        rows,
        tmp_path / "a",
        *words,
        names=("rows.jsonl:1", '"answer_start"', "whole number"),
    )
    rows.write_text('{"text": "Anna.", "label": "x"}\n')
    fails("finetune", made / "bert", rows, tmp_path / "a", *words, names=("rows.jsonl", "question", "--text-field"))
    shutil.copytree(made / "bert", tmp_path / "mixed")
    load_tokenizer(made / "t5-words").save(tmp_path / "mixed")
    for verb, *more in (("predict", rows), ("finetune", made / "squad.json", tmp_path / "a", *words)):
        fails(verb, tmp_path / "mixed", *more, names=("mixed: the tokenizer",))
    odd = tmp_path / "odd.conll"
    odd.write_text("Rome B-CITY\n")
    fails(*tune(made, tmp_path / "a", "tokens", "bert", "--validation", odd), names=("odd.conll:1", '"B-CITY"'))
