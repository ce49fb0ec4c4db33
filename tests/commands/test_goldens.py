"""Golden runs: short fp32 runs of each stage whose losses are frozen here, to a tolerance that other machines meet."""

import json
import random
from pathlib import Path

import pytest

from langwright.cli import main

OPTIONS = ["--context", "32", "--batch-size", "4", "--dtype", "float32", "--device", "cpu", "--log-every", "5"]


def losses(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    rng = random.Random(0)
    words = ["cat", "dog", "tuna", "human", "chicken"]
    (folder / "text").mkdir()
    for number in range(40):
        lines = [f"One {rng.choice(words)} ate a {rng.choice(words)}." for _ in range(30)]
        (folder / "text" / f"{number:02}.txt").write_text("\n".join(lines) + "\n")
    made = ["pretrain", str(folder / "text"), str(folder / "base"), "--steps", "20", "--depth", "1"]
    assert main([*made, "--vocabulary", "300", "--family", "gpt2", *OPTIONS]) == 0
    return folder


def test_pretraining(base: Path) -> None:
    assert losses(base / "base") == pytest.approx(PRETRAINING, abs=2e-3)


def test_finetuning(base: Path) -> None:
    (base / "new.txt").write_text("".join(f"Seven humans met {n} tunas.\n" for n in range(300)))
    made = ["finetune", str(base / "base"), str(base / "new.txt"), str(base / "tuned"), "--steps", "20"]
    assert main([*made, "--learning-rate", "0.002", *OPTIONS]) == 0
    assert losses(base / "tuned") == pytest.approx(FINETUNING, abs=2e-3)


PRETRAINING = [5.5911, 2.4537, 2.2698, 2.2671, 2.2566]
FINETUNING = [8.4351, 6.4102, 5.6143, 5.2308, 4.9427]
