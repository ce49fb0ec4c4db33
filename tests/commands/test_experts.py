"""A mixture of experts is trained, balanced or not, measured, and opened by `transformers`."""

import json
import random
from pathlib import Path

import pytest
import torch
import transformers

from langwright import load_model
from langwright.cli import main
from oracles import random_ids
from refusals import Fails, Prints

TINY = ["--depth", "2", "--width", "64", "--context", "32", "--batch-size", "8", "--vocabulary", "300"]
RUN = ["--steps", "30", "--learning-rate", "0.01", "--dtype", "float32", "--sample-every", "0", "--split", "0.9"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of three kinds, which experts might tell apart."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("text") / "text.txt"
    words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(60)]
    path.write_text(
        "".join(f"{draw.choice(words)} {draw.randrange(999)} {draw.choice('.,;!?')}\n" for _ in range(1500))
    )
    return path


@pytest.fixture(scope="module")
def models(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained as it comes, and without what balances."""
    folder = tmp_path_factory.mktemp("models")
    for name, more in (("balanced", []), ("left alone", ["--balance", "0"])):
        out = folder / name
        assert main(["pretrain", str(corpus), str(out), "--family", "mixtral", *TINY, *RUN, *more]) == 0
    return {name: folder / name for name in ("balanced", "left alone")}


def test_balancing_balances(models: dict[str, Path], corpus: Path, prints: Prints) -> None:
    busiest = {}
    for name, folder in models.items():
        told = json.loads(prints("evaluate", folder, "--text", corpus, "--experts", "--json", "--dtype", "float32"))
        assert [one["layer"] for one in told["experts"]] == [0, 1]
        assert all(sum(one["shares"]) == pytest.approx(1, abs=1e-5) for one in told["experts"])
        busiest[name] = sum(max(one["shares"]) for one in told["experts"])
        record = json.loads((folder / "langwright.json").read_text())
        assert told["loss_nats_per_token"] < 5 < record["recipe"]["vocabulary"]
    assert busiest["balanced"] < 0.8 * busiest["left alone"]


def test_what_is_told(models: dict[str, Path], corpus: Path, prints: Prints) -> None:
    lines = prints("evaluate", models["balanced"], "--text", corpus, "--experts").splitlines()
    assert lines[0].startswith(f"{corpus}: loss ")
    assert lines[1].startswith("experts of layer 0: the busiest has ")
    assert len(lines) == 1 + 2 * (1 + 8)


@torch.no_grad()
def test_the_folder_opens_in_transformers(models: dict[str, Path]) -> None:
    ids = random_ids(2, 20)
    for name, weight in (("balanced", 0.02), ("left alone", 0.0)):
        theirs = transformers.AutoModelForCausalLM.from_pretrained(models[name], dtype=torch.float32).eval()
        assert theirs.config.router_aux_loss_coef == weight
        assert (theirs(ids).logits - load_model(models[name])(ids)).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--family", "llama", "--balance", "0.1"], "--balance 0.1"),
        (["--preset", "gpt2", "--balance", "0.1"], "--balance 0.1"),
        (["--family", "mixtral", "--balance", "-1"], "--balance -1"),
    ],
)
def test_what_is_refused(arguments: list[str], named: str, corpus: Path, tmp_path: Path, fails: Fails) -> None:
    fails("pretrain", corpus, tmp_path / "out", "--split", "0.9", *arguments, names=named)


def test_a_model_without_experts(corpus: Path, untrained: Path, fails: Fails) -> None:
    fails("evaluate", untrained, "--text", corpus, "--experts", names=("--experts", str(untrained)))
