"""Multiple choice from the command line: a head of an encoder, the likelihood of a decoder."""

import json
import random
from pathlib import Path

import pytest
import torch
import transformers

from commands.test_tasks import RUN, WORDS, base
from langwright import load_tokenizer
from processes import survives_kills
from refusals import Fails, Prints


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder and a decoder; questions with two choices or three, of which the good one is right."""
    folder, draw = tmp_path_factory.mktemp("made"), random.Random(0)
    for family in ("bert", "llama", "t5"):
        base(folder / family, family)
    for name, count in (("train", 160), ("test", 40)):
        rows = []
        for number in range(count):
            gold = draw.randrange(2)
            choices = [draw.choice(WORDS["good" if i == gold else "bad"]) for i in range(2 + number % 2)]
            rows.append({"query": draw.choice(["which?", "what is it?"]), "choices": choices, "gold": gold})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tune(made: Path, out: Path, model: str = "bert", *more: object, steps: int = 60) -> list[str]:
    words = ["finetune", made / model, made / "train.jsonl", out, "--task", "choice", "--steps", steps, *RUN]
    return [str(word) for word in (*words, "--validation", made / "test.jsonl", *more)]


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_it_learns_predicts_and_scores_as_transformers_does(
    model: str, made: Path, tmp_path: Path, prints: Prints
) -> None:
    out, test = tmp_path / "out", made / "test.jsonl"
    told = json.loads(prints(*tune(made, out, model), "--json"))
    assert told["accuracy"] > 0.9
    measured = json.loads(prints("evaluate", out, "--data", test, "--json", "--dtype", "float32"))
    assert measured == {name: told[name] for name in ("accuracy", "rows")}
    lines = [json.loads(line) for line in prints("predict", out, test, "--dtype", "float32").splitlines()]
    tokenizer = load_tokenizer(out)
    for row, line in list(zip(map(json.loads, test.read_text().splitlines()), lines, strict=True))[:4]:
        scores = []
        for choice in row["choices"]:
            if model == "bert":
                ids, types = map(torch.tensor, tokenizer.frame(row["query"], choice))
                theirs = transformers.BertForMultipleChoice.from_pretrained(out, dtype=torch.float32).eval()
                with torch.no_grad():
                    scores.append(theirs(input_ids=ids[None, None], token_type_ids=types[None, None]).logits[0, 0])
            else:
                asked, said = [*tokenizer.opening, *tokenizer.encode(row["query"])], tokenizer.encode(f" {choice}")
                causal = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
                with torch.no_grad():
                    logits = causal(torch.tensor([asked + said])).logits[0].log_softmax(-1)
                scores.append(sum(logits[len(asked) - 1 + i, token] for i, token in enumerate(said)))
        chances = torch.stack(scores).softmax(-1).tolist()
        assert line["probabilities"] == pytest.approx(chances, abs=1e-4)
        assert line["label"] == chances.index(max(chances))


def test_an_adapter_keeps_its_head(made: Path, tmp_path: Path, prints: Prints) -> None:
    out = tmp_path / "out"
    prints(*tune(made, out, "bert", "--method", "lora", steps=5))
    odd = tmp_path / "odd.jsonl"  # whose answers are passed over
    odd.write_text((made / "test.jsonl").read_text().replace('"gold": 0', '"gold": "sing"'))
    lines = prints("predict", made / "bert", odd, "--adapter", out, "--dtype", "float32")
    assert lines == (out / "predictions.jsonl").read_text()
    errors = json.loads((out / "langwright.json").read_text())["details"]["errors"]
    assert all(row["label"] != row["said"] for row in errors)
    assert len(errors) == sum(
        json.loads(line)["label"] != row["gold"]
        for row, line in zip(
            map(json.loads, (made / "test.jsonl").read_text().splitlines()), lines.splitlines(), strict=True
        )
    )


def test_killed_and_run_again_it_ends_with_the_same_bytes(made: Path, tmp_path: Path) -> None:
    every = ["--save-every", "3", "--evaluate-every", "3"]
    survives_kills(lambda out: tune(made, tmp_path / out, "bert", *every, steps=14), tmp_path, [7])


@pytest.mark.parametrize(
    ("row", "more", "named"),
    [
        ({"query": "x", "choices": ["a", "b"], "gold": 2}, [], ["rows.jsonl:1", '"gold"', "2"]),
        ({"query": "x", "choices": ["a"], "gold": 0}, [], ["rows.jsonl:1", '"choices"']),
        ({"query": "x", "choices": ["a", 1], "gold": 0}, [], ["rows.jsonl:1", '"choices"']),
        ({"query": "x", "choices": ["a", "b"]}, [], ["rows.jsonl", "--label-field"]),
        ({"query": "x", "texts": ["a", "b"], "gold": 0}, [], ["rows.jsonl", "--second-field"]),
        ({"query": "x", "choices": ["a", "b"], "gold": 0}, ["--text-field", "quest"], ['"quest"']),
    ],
)
def test_bad_rows_are_refused_in_one_line(
    row: dict[str, object], more: list[str], named: list[str], made: Path, tmp_path: Path, fails: Fails
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    words = ["finetune", made / "bert", tmp_path / "rows.jsonl", tmp_path / "out", "--task", "choice", *RUN]
    fails(*words, *more, names=tuple(named))


def test_models_that_do_not_choose_are_refused(made: Path, tmp_path: Path, fails: Fails) -> None:
    fails(*tune(made, tmp_path / "out", "t5"), names=("t5", "encoder-decoder"))
    fails("predict", made / "bert", made / "test.jsonl", names=("bert",))
