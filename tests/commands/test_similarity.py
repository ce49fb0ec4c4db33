"""Sentence similarity from the command line: scores or pairs in, a model of sentence vectors out."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
import transformers
from scipy import stats

from commands.test_tasks import RUN, WORDS, base
from langwright import load_tokenizer
from langwright.objectives.similarity import contrastive_losses
from processes import survives_kills
from refusals import Fails, Prints


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and pairs that score 5 where both words are of a kind, else 1; and those of a kind alone."""
    folder, draw = tmp_path_factory.mktemp("made"), random.Random(0)
    for family in ("bert", "llama"):
        base(folder / family, family)
    words = [(word, kind) for kind, group in WORDS.items() for word in group]
    rows = [(draw.choice(words), draw.choice(words)) for _ in range(120)]
    lines = [json.dumps({"a": a, "b": b, "score": 5.0 if x == y else 1.0}) + "\n" for (a, x), (b, y) in rows]
    (folder / "scores.jsonl").write_text("".join(lines))
    (folder / "pairs.jsonl").write_text("".join(json.dumps({"a": a, "b": f"{a}!"}) + "\n" for (a, _), _ in rows))
    return folder


def tune(made: Path, out: Path, data: str = "scores", *more: object, steps: int = 60) -> list[str]:
    words = ["finetune", made / "bert", made / f"{data}.jsonl", out, "--task", "similarity", "--steps", steps, *RUN]
    return [str(word) for word in (*words, *more)]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_learns_predicts_and_opens_in_sentence_transformers(
    method: str, made: Path, tmp_path: Path, prints: Prints
) -> None:
    out, data = tmp_path / "out", made / "scores.jsonl"
    rate = ["--learning-rate", "0.03"] if method == "lora" else []
    prints(*tune(made, out, "scores", "--method", method, *rate, "--validation", data), "--json")
    of = [made / "bert", "--adapter", out] if method == "lora" else [out]
    measured = json.loads(prints("evaluate", *of, "--data", data, "--json", "--dtype", "float32"))
    assert measured["spearman"] > 0.7
    lines = [json.loads(line)["score"] for line in prints("predict", *of, data, "--dtype", "float32").splitlines()]
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    assert measured["spearman"] == pytest.approx(stats.spearmanr([row["score"] for row in rows], lines)[0])
    if method == "lora":
        return
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((out / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    theirs, tokenizer = transformers.AutoModel.from_pretrained(out, dtype=torch.float32).eval(), load_tokenizer(out)
    with torch.no_grad():
        a, b = (theirs(torch.tensor([tokenizer.frame(rows[0][side])[0]]))[0].mean(1) for side in "ab")
    assert lines[0] == pytest.approx(torch.cosine_similarity(a, b).item(), abs=1e-5)
    odd = tmp_path / "odd.jsonl"  # whose answers are passed over
    odd.write_text(data.read_text().replace('"score": 1.0', '"score": "high"'))
    assert [json.loads(line)["score"] for line in prints("predict", out, odd).splitlines()] == lines
    errors = [row["error"] for row in json.loads((out / "langwright.json").read_text())["details"]["errors"]]
    worst = max(abs((row["score"]) / 5 - line) for row, line in zip(rows, lines, strict=True))
    assert errors[0] == pytest.approx(worst, abs=1e-5)


def test_pairs_alone_are_told_from_each_other(made: Path, tmp_path: Path, prints: Prints) -> None:
    out = tmp_path / "out"
    prints(*tune(made, out, "pairs", "--temperature", "0.1", "--evaluate-every", "10"))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert min(losses) < losses[0]
    assert json.loads((out / "langwright.json").read_text())["task"]["temperature"] == 0.1
    assert {"spearman", "pearson"} < set(json.loads(prints("evaluate", out, "--data", made / "scores.jsonl", "--json")))


def test_the_share_of_a_partner_by_hand() -> None:
    cosines = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    alone = torch.eye(3, dtype=torch.bool)
    expected = [-2 + math.log(math.exp(2) + 2), -1 + math.log(1 + 2 * math.e), -2 + math.log(math.exp(2) + 2)]
    assert contrastive_losses(cosines, alone, 0.5).tolist() == pytest.approx(expected)
    shared = alone.clone()
    shared[1, 2] = shared[2, 1] = True  # the last two have the same partner
    expected = [expected[0], -1 + math.log(1 + math.e), -2 + math.log(math.exp(2) + 1)]
    assert contrastive_losses(cosines, shared, 0.5).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("data", ["scores", "pairs"])
def test_killed_and_run_again_it_ends_with_the_same_bytes(data: str, made: Path, tmp_path: Path) -> None:
    every = ["--save-every", "3", "--evaluate-every", "3"]
    survives_kills(lambda out: tune(made, tmp_path / out, data, *every, steps=14), tmp_path, [7])


@pytest.mark.parametrize(
    ("rows", "more", "named"),
    [
        ([{"text": "x", "score": 1}], [], ["rows.jsonl:1", "--second-field"]),
        ([{"a": "x", "b": "y", "score": 1}, {"a": "x", "b": "y"}], [], ["rows.jsonl:2"]),
        ([{"a": "x", "b": "y", "score": "much"}], [], ["rows.jsonl:1", '"much"']),
        ([{"a": "x", "b": "y", "score": 1}] * 40, ["--temperature", "0.1"], ["--temperature"]),
        ([{"a": "x", "b": "y", "score": 1}] * 40, ["--label-field", "scores"], ['"scores"', '"score"']),
        ([{"a": "x", "b": "y", "score": 1}] * 40, ["--smoothing", "0.1"], ["--smoothing"]),
        ([{"a": "x", "b": "y"}] * 40, ["--smoothing", "0.1"], ["--smoothing"]),
        ([{"a": "x", "b": "y"}] * 40, ["--micro-batch", "2"], ["--micro-batch"]),
        ([{"a": "x", "b": "y"}] * 40, ["--temperature", "0"], ["--temperature"]),
    ],
)
def test_bad_rows_and_settings_are_refused(
    rows: list[dict[str, object]], more: list[str], named: list[str], made: Path, tmp_path: Path, fails: Fails
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "finetune",
        made / "bert",
        tmp_path / "rows.jsonl",
        tmp_path / "out",
        "--task",
        "similarity",
        *RUN,
        "--split",
        "0.5",
    ]
    fails(*words, *more, names=tuple(named))


def test_a_decoder_has_no_sentence_vectors(made: Path, tmp_path: Path, fails: Fails) -> None:
    words = ["finetune", made / "llama", made / "scores.jsonl", tmp_path / "out", "--task", "similarity", *RUN]
    fails(*words, names=("embedding", "llama"))
