"""The seam of objectives: one with two models, two terms, a batch of its own, and data drawn from the model itself."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langwright.data.supply import Supply
from langwright.models.weights import read_tensors, write_tensors
from langwright.objectives.batch import Batch
from langwright.planning.machine import Machine
from langwright.text.training import raw_bytes
from langwright.training.ranks import Ranks
from langwright.training.recipe import TrainingRecipe
from langwright.training.trainer import Evaluation, Job, train
from processes import on_ranks

ROWS, STEPS = 4, 4


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@dataclass(frozen=True)
class Draw(Batch):
    states: Tensor
    actions: Tensor
    known: Tensor
    samples: Tensor


class ActorAndCritic:
    """Actions move away from their mean, and a critic guesses how large those are that are known.

    How many are known is only measured.
    """

    weights = {"actor": 1.0, "critic": 0.5}  # noqa: RUF012

    def __init__(self, ranks: Ranks):
        self.ranks = ranks

    def counts(self, batch: Draw) -> dict[str, Tensor]:
        return {
            "actor": torch.tensor(float(len(batch))),
            "critic": batch.known.sum(),
            "known": torch.tensor(float(len(batch))),
        }

    def __call__(self, models: Any, batch: Draw) -> dict[str, Tensor]:
        moved = models["model"](batch.states)
        mean = self.ranks.gather(moved).mean(0)  # couples the rows
        guessed = models["critic"](batch.states)[:, 0] - batch.actions.square().sum(1)
        return {
            "actor": (moved - mean - batch.actions).square().sum(),
            "critic": (guessed.square() * batch.known).sum(),
            "known": batch.known.sum(),
        }


class Rollouts:
    """Two updates a draw, which are one step.

    Each row's noise is that of its number, so that ranks share what one process would draw.
    """

    windows, tokens_per_step, updates = 64, ROWS, 2

    def __init__(self, rank: int, world: int, fatal: int | None = None):
        self.rows = range(rank * ROWS // world, (rank + 1) * ROWS // world)
        self.taken, self.fatal, self.drawn = 0, fatal, Draw(*torch.zeros(4, 1))

    def record(self) -> dict[str, Any]:
        return {"data": "rollouts"}

    @torch.no_grad()
    def next(self, models: Any) -> Draw:
        if self.taken == self.fatal:
            raise Killed
        if self.taken % self.updates == 0:
            numbers = torch.tensor(self.rows) + self.taken * ROWS
            states = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(int(n))) for n in numbers])
            self.drawn = Draw(states, models["model"](states).tanh(), (numbers % 3 > 0).float(), numbers)
        self.taken += 1
        return self.drawn

    def state(self) -> dict[str, Tensor]:
        return {**vars(self.drawn), "taken": torch.tensor(self.taken)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.taken = int(state["taken"])
        self.drawn = Draw(**{name: state[name] for name in vars(self.drawn)})


def run(out: Path, fatal: int | None = None, parallel: Any = "none") -> dict[str, Tensor]:
    """The parameters that a run ends with."""

    def prepare(rank: int, world: int) -> Job:
        return Job(
            out=out,
            recipe=TrainingRecipe(steps=f"{STEPS} steps", save_every="1 steps", batch_size=ROWS, log_every="1 steps"),
            origin={"command": "toy"},
            models=lambda: {"model": nn.Linear(4, 4, bias=False), "critic": nn.Linear(4, 1)},
            objective=ActorAndCritic,
            supply=Supply(raw_bytes(), Rollouts(rank, world, fatal), lambda limit: iter(()), 0, 0, {"hash": "toy"}),
            learning_rate=0.05,
            machine=Machine(torch.device("cpu"), torch.float32, 1e9),
            started=time.monotonic(),
            evaluate=lambda models, windows, stopped: Evaluation({"validation_loss": 0.0}, {}),
            save=lambda models, masters, record: write_tensors(out / "end.safetensors", masters),
        )

    train(out, parallel, prepare)
    return read_tensors(out / "end.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("fatal", [4, 5])
def test_a_run_killed_in_a_step_resumes_bit_for_bit(fatal: int, tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    with suppress(Killed):
        run(tmp_path, fatal)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == fatal // 2
    resumed = run(tmp_path)
    assert set(resumed) == {"weight", "critic.weight", "critic.bias"}
    assert all(torch.equal(resumed[name], value) for name, value in undisturbed.items())


def test_a_step_logs_the_means_of_its_updates_and_what_is_measured(tmp_path: Path) -> None:
    run(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    known = [
        sum(n % 3 > 0 for n in range(start, start + ROWS)) / ROWS for start in range(0, STEPS * 2 * ROWS, 2 * ROWS)
    ]
    assert [row["known"] for row in rows if "loss" in row] == known
    assert [row["tokens"] for row in rows if "loss" in row] == [2 * ROWS * (step + 1) for step in range(STEPS)]


def test_two_ranks_train_the_same(tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    assert on_ranks(run, tmp_path, None, "ddp") == [0, 0]
    for name, value in read_tensors(tmp_path / "end.safetensors").items():
        torch.testing.assert_close(value, undisturbed[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(undisturbed["weight"], torch.zeros(4, 4))
