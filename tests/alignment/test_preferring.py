"""langwright align on preferences: what reward models and policies learn, how runs go on, and what is refused."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from langwright import load_model, load_tokenizer
from langwright.alignment.methods import METHODS
from langwright.alignment.reward_model import RewardModel, calibration, report_of, spearman
from langwright.alignment.rewarding import REFERENCES, references
from langwright.cli import main
from langwright.data.preferences import AnswerExample, RankedExample
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.text.training import raw_bytes
from processes import survives_kills
from refusals import Fails, Prints, refused

RUN = ["--batch-size", "4", "--log-every", "1", "--save-every", "3", "--sample-every", "0", "--dtype", "float32"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder, an encoder, and rows whose better answer names a fruit."""
    folder, tokenizer, rng = tmp_path_factory.mktemp("made"), raw_bytes(), random.Random(0)
    save_model(new_model("llama", by_depth("llama", 1, tokenizer.vocab_size, 64, 0.1)), tokenizer, folder / "model")
    fruits, stones = ["apple", "pear", "plum"], ["slate", "chalk", "flint"]
    rows = [
        {
            "prompt": f"{rng.choice('abcdefgh')}{i}:",
            "chosen": f" {rng.choice(fruits)}",
            "rejected": f" {rng.choice(stones)}",
        }
        for i in range(60)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ranked = [{"prompt": row["prompt"], "answers": [row["chosen"], " so so", row["rejected"]]} for row in rows]
    (folder / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ranked, *rows]))
    return folder


def align(made: Path, out: Path, *words: object, data: str = "pairs.jsonl") -> int:
    return main(["align", str(made / "model"), str(made / data), str(out), *map(str, words), *RUN])


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "langwright.json").read_text())
    return found


@pytest.mark.parametrize("data", ["pairs.jsonl", "ranked.jsonl"])
def test_a_reward_model_tells_better_from_worse_and_transformers_agrees(
    data: str, made: Path, tmp_path: Path, prints: Prints
) -> None:
    from transformers import AutoModelForSequenceClassification

    out = tmp_path / "rm"
    assert align(made, out, "--method", "reward", "--steps", "30", "--learning-rate", "0.003", data=data) == 0
    first, *_, last = (row for row in metrics(out) if "loss" in row)
    assert last["loss"] < first["loss"]
    assert {"accuracy", "margin", "reward"} <= first.keys()
    found = record(out)
    low, high = found["reward_model"]["interval"]
    assert 0.9 < low <= found["reward_model"]["accuracy"] <= high
    assert (out / "report.html").exists()

    scored = [json.loads(line) for line in prints("predict", out, made / "pairs.jsonl").splitlines()]
    assert np.mean([row["rewards"][0] > row["rewards"][1] for row in scored]) > 0.9
    reward = RewardModel.open(out)
    theirs = AutoModelForSequenceClassification.from_pretrained(out)
    assert theirs.config.num_labels == 1
    pairs = [json.loads(line) for line in (made / "pairs.jsonl").read_text().splitlines()]
    answered = [(row["prompt"], row[side]) for row in pairs for side in ("chosen", "rejected")]
    rewards = reward.rewards(answered)
    torch.testing.assert_close(rewards, [value for row in scored for value in row["rewards"]], rtol=1e-4, atol=1e-5)
    ids = [torch.tensor([reward.form.encode(*one, 64).ids.tolist()]) for one in answered[:6]]
    logits = [theirs(one).logits.item() for one in ids]
    torch.testing.assert_close([value - reward.shift for value in logits], rewards[:6], rtol=1e-4, atol=1e-5)
    if data == "pairs.jsonl":  # mean 0 and deviation 1, as far as these rows are the references
        assert abs(np.mean(rewards)) < 0.2
        assert abs(np.std(rewards) - 1) < 0.2


def test_an_encoder_keeps_its_normalisation_in_the_bias_of_its_head(tmp_path: Path, made: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    (tmp_path / "cats.txt").write_text("One cat ate a tuna, one cat ate a chicken.\n<|endoftext|>\n" * 60)
    shape = ["--objective", "masked", "--depth", "1", "--context", "48", "--vocabulary", "300", "--steps", "1"]
    assert main(["pretrain", str(tmp_path / "cats.txt"), str(tmp_path / "bert"), *shape, *RUN]) == 0
    words = ["align", str(tmp_path / "bert"), str(made / "pairs.jsonl"), str(tmp_path / "rm")]
    assert main([*words, "--method", "reward", "--steps", "3", *RUN]) == 0
    reward, theirs = (
        RewardModel.open(tmp_path / "rm"),
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm"),
    )
    assert (reward.shift, reward.scale) == (0, 1)
    one = reward.form.encode("a1:", " apple", 48)
    assert one.types is not None
    logit = theirs(torch.tensor([one.ids.tolist()]), token_type_ids=torch.tensor([one.types.tolist()])).logits.item()
    assert logit == pytest.approx(reward.rewards([("a1:", " apple")])[0], abs=1e-4)


@pytest.mark.parametrize("method", ["dpo", "ipo", "simpo", "kto", "orpo"])
def test_a_policy_learns_to_prefer_and_its_reference_stays(method: str, made: Path, tmp_path: Path) -> None:
    out, rate = tmp_path / method, ["--learning-rate", "0.001"]
    assert align(made, out, "--method", method, "--steps", "12", *rate) == 0
    rows = [row for row in metrics(out) if "loss" in row]
    assert rows[-1]["accuracy"] > 0.9 or method == "kto"  # which compares with a KL that answers to others raise
    assert rows[-1]["reward"] > rows[-1]["rejected_reward"]
    if method in ("dpo", "ipo", "kto"):
        assert rows[0]["kl"] == rows[0]["reward"] == rows[0]["rejected_reward"] == 0
        assert rows[-1]["kl"] > 0
    if method == "dpo":
        assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    load_model(out)
    assert record(out)["command"] == "align"


@pytest.mark.parametrize("adapter", [["lora"], ["lora", "--bits", "nf4"], ["ia3"], ["prompt", "--virtual-tokens", "3"]])
def test_an_adapter_learns_over_a_base_that_is_its_own_reference(
    adapter: list[str], made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["--adapter", *adapter, "--learning-rate", "0.01", "--context", "48"]
    assert align(made, out, "--method", "dpo", "--steps", "8", *words) == 0
    rows = [row for row in metrics(out) if "loss" in row]
    if "prompt" not in adapter:  # whose virtual tokens change the policy from the first step on
        assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (out / "adapter_config.json").exists()
    assert not (out / "model.safetensors").exists()


RUNS = {
    "reward": ["reward"],
    "dpo": ["dpo", "--micro-batch", "2"],
    "ipo": ["ipo", "--loss", "sum"],
    "simpo": ["simpo"],
    "dpo over an adapter": ["dpo", "--adapter", "lora", "--loss", "robust", "--smoothing", "0.1"],
    "kto": ["kto"],
    "orpo": ["orpo"],
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_and_run_again_it_ends_with_the_same_bytes(name: str, made: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        paths = [str(made / "model"), str(made / "pairs.jsonl"), str(tmp_path / out)]
        return ["align", *paths, "--method", *RUNS[name], "--steps", "10", *RUN]

    survives_kills(command, tmp_path, [random.Random(name).randrange(4, 8)])


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_micro_batches_end_where_whole_batches_do(method: str, made: Path, tmp_path: Path) -> None:
    for name, more in (("whole", []), ("parts", ["--micro-batch", "1"])):
        assert align(made, tmp_path / name, "--method", method, "--steps", "4", *more) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for key, tensor in whole.items():
        torch.testing.assert_close(parts[key], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pairs", [300, 511, 512, 600, 1100])
def test_scores_are_normalised_on_both_answers_of_rows_from_all_of_the_data(pairs: int) -> None:
    better, worse = (AnswerExample(np.array([1, 2 + side]), 1) for side in (0, 1))
    rows = [RankedExample((replace(better), replace(worse))) for _ in range(pairs)]
    found = references(rows)
    places = {id(answer): number for number, row in enumerate(rows) for answer in row.answers}
    assert REFERENCES - 1 <= len(found) <= REFERENCES
    assert sum(int(answer.ids[1] == 2) for answer in found) * 2 == len(found)
    used = sorted({places[id(answer)] for answer in found})
    assert used[0] == 0
    assert pairs - used[-1] <= 1 + pairs / len(used)
    assert len(references(rows[:3])) == 6


def test_trust_in_scores_is_what_is_worked_out_by_hand() -> None:
    def answers(*sizes: int) -> RankedExample:
        return RankedExample(tuple(AnswerExample(np.zeros(2 + size, np.int64), 2) for size in sizes))

    examples = [answers(3, 1), answers(3, 1), answers(1, 2), answers(4, 4)]
    found = report_of(examples, [np.array(row, float) for row in ([2, 1], [1, 2], [1, 0], [5, 5])])
    assert found["accuracy"] == 2.5 / 4
    assert found["length_accuracy"] == 2.5 / 4
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]
    assert spearman(np.array([1.0, 5, 5, 9]), np.array([1, 2, 3, 4])) == pytest.approx(3 / np.sqrt(10), abs=1e-9)
    (unsure, sure) = calibration(np.array([-1.0, 3.0]))
    assert (unsure["right"], sure["right"]) == (0, 1)
    assert unsure["chance"] == pytest.approx(1 / (1 + np.exp(-1)))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--method", "dpo", "--centring", "1"], ["--centring 1.0", "reward", "dpo"]),
        (["--method", "reward", "--beta", "1"], ["--beta 1.0", "dpo", "reward"]),
        (["--method", "kto", "--loss", "hinge"], ["--loss hinge", "kto"]),
        (["--method", "ipo", "--loss", "hinge"], ["--loss hinge", "mean"]),
        (["--loss", "hinge", "--smoothing", "0.1"], ["--smoothing 0.1", "hinge"]),
        (["--smoothing", "0.5"], ["--smoothing 0.5"]),
        (["--beta", "0"], ["--beta 0"]),
        (["--bits", "nf4"], ["--adapter lora"]),
        (["--adapter", "lora", "--dropout", "0.1"], ["--dropout"]),
        (["--z-loss", "0.1"], ["--z-loss"]),
        (["--context", "65"], ["--context 65", "64"]),
        (["--context", "4"], ["pairs.jsonl:", "--context", "--skip"]),
        (["--split", "0.5", "--validation", "x.jsonl"], ["--split", "--validation"]),
    ],
)
def test_bad_input_ends_in_one_line(
    words: list[str], names: list[str], made: Path, tmp_path: Path, fails: Fails
) -> None:
    paths = [made / "model", made / "pairs.jsonl", tmp_path / "out"]
    fails("align", *paths, *words, names=tuple(names))


@pytest.mark.parametrize("weight", ["--undesirable", "--desirable"])
def test_judged_answers_of_one_kind_may_count_for_nothing(
    weight: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert align(made, tmp_path / "out", "--method", "kto", weight, 0, "--steps", 1) == 0
    assert f"count are {'good' if weight == '--undesirable' else 'bad'}" in capsys.readouterr().err


def test_the_reward_model_of_another_tokenizer_is_refused(made: Path, tmp_path: Path) -> None:
    assert align(made, tmp_path / "rm", "--method", "reward", "--steps", "1") == 0
    own = load_tokenizer(made / "model")
    assert RewardModel.open(tmp_path / "rm", policy=own).rewards([("a:", " b")])
    with refused(tmp_path / "rm", "tokenizer"):
        RewardModel.open(tmp_path / "rm", policy=own.extended(["<new>"], replace(own.special_tokens)))
    with refused(made / "model", "reward"):
        RewardModel.open(made / "model")


def test_every_method_is_one_of_the_recipe() -> None:
    from typing import get_args, get_type_hints

    from langwright.alignment.recipe import AlignRecipe

    assert set(get_args(get_type_hints(AlignRecipe)["method"])) == set(METHODS)
