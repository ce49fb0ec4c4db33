"""The loop: exact resume, broken checkpoints, numbers that are not finite, signals."""

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from langwright.base.errors import UserError
from langwright.objectives.batch import TokenBatch
from langwright.training.loop import MOST_SKIPS, Hooks
from langwright.training.losses import Causal
from tiny import TinyBatches, batch_of, same, tiny_learner, tiny_run, weights


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def killed_at(step: int, folder: Path, dropout: float = 0.1) -> None:
    """Begin a run and lose the process at the end of a step."""

    def die(row: dict[str, float]) -> None:
        if row["step"] == step:
            raise Killed

    run = tiny_run(folder, tiny_learner(dropout), hooks=Hooks(on_row=die))
    torch.manual_seed(0)
    run.resume()
    with pytest.raises(Killed):
        run.fit()


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, torch.Tensor]:
    learner = tiny_learner(0.1)
    torch.manual_seed(0)
    run = tiny_run(tmp_path / "undisturbed", learner)
    run.resume()
    assert run.fit() is None
    return weights(learner.model)


def test_with_muon_too_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    ends = []
    for name in ("undisturbed", "killed"):
        for attempt in range(2 if name == "killed" else 1):
            learner = tiny_learner(dtype=torch.bfloat16, kind="muon")
            run = tiny_run(tmp_path / name, learner)
            if name == "killed" and attempt == 0:
                run.hooks = Hooks(on_row=lambda row: die() if row["step"] == 7 else None)
            run.resume()
            with contextlib.suppress(Killed):
                run.fit()
        ends.append({name: p.detach().clone() for name, p in learner.masters.named.items()})
    assert same(*ends)


def die() -> None:
    raise Killed


@pytest.mark.parametrize("step", [3, 5, 8, 11])
def test_a_killed_run_resumes_bit_for_bit(step: int, tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    killed_at(step, tmp_path / "killed")
    learner = tiny_learner(0.1)
    torch.manual_seed(99)  # the state of the checkpoint counts, not this one
    if step <= 4:  # nothing was saved yet: the command begins again, with its own seed
        torch.manual_seed(0)
    run = tiny_run(tmp_path / "killed", learner)
    assert run.resume() == (step > 4)
    assert run.step == (step - 1) // 4 * 4  # the kill comes before that step's own checkpoint
    assert run.fit() is None
    assert same(weights(learner.model), undisturbed)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


def test_a_resumed_run_with_other_data_differs(tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    """The negative control: forget the data position, and the end is another."""
    killed_at(6, tmp_path / "killed")
    learner = tiny_learner(0.1)
    run = tiny_run(tmp_path / "killed", learner)
    run.batches = TinyBatches(lambda step: batch_of(step - 4))
    run.resume()
    run.fit()
    assert not same(weights(learner.model), undisturbed)


def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    killed_at(11, tmp_path / "killed")
    newest = sorted((tmp_path / "killed/checkpoints").iterdir())[-1]
    with open(newest / "optimizer.safetensors", "r+b") as file:
        file.truncate(100)
    learner, events = tiny_learner(0.1), []
    run = tiny_run(tmp_path / "killed", learner, hooks=Hooks(on_event=events.append))
    assert run.resume()
    assert run.step == 4
    assert "optimizer.safetensors: broken" in events[0]["detail"]
    run.fit()
    assert same(weights(learner.model), undisturbed)


def test_a_changed_state_is_noticed(tmp_path: Path) -> None:
    killed_at(11, tmp_path / "killed")
    newest = sorted((tmp_path / "killed/checkpoints").iterdir())[-1] / "state.json"
    newest.write_text(newest.read_text().replace('"step": 8', '"step": 9'))
    run = tiny_run(tmp_path / "killed", tiny_learner(0.1))
    assert run.resume()
    assert run.step == 4
    newest.write_text('{"format_version": 1}')
    assert tiny_run(tmp_path / "killed", tiny_learner(0.1)).resume()


def test_when_every_checkpoint_is_broken_nothing_is_begun_afresh(tmp_path: Path) -> None:
    killed_at(11, tmp_path / "killed")
    for folder in (tmp_path / "killed/checkpoints").iterdir():
        (folder / "state.json").write_text("{")
    with pytest.raises(UserError, match="no whole checkpoint is left"):
        tiny_run(tmp_path / "killed", tiny_learner()).resume()


def test_a_changed_recipe_is_refused_by_name(tmp_path: Path) -> None:
    killed_at(6, tmp_path / "killed")
    with pytest.raises(UserError, match=r"began with seed = 1, not 2"):
        tiny_run(tmp_path / "killed", tiny_learner(), identity={"seed": 2}).resume()
    assert tiny_run(tmp_path / "killed", tiny_learner(), identity={"seed": 2}).resume(("seed",))


def test_checkpoints_are_dropped_beyond_the_last_two(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_learner())
    run.resume()
    run.fit()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]


def test_saving_comes_before_evaluating(tmp_path: Path) -> None:
    def fail(stopped: object) -> dict[str, float]:
        raise MemoryError

    run = tiny_run(tmp_path, tiny_learner(), hooks=Hooks(evaluate=fail))
    run.every = type(run.every)(log=1, save=5, evaluate=5)
    run.resume()
    with pytest.raises(MemoryError):
        run.fit()
    assert (tmp_path / "checkpoints/step-00000005").is_dir()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_never_reaches_the_weights(poison: float, tmp_path: Path) -> None:
    learner, events = tiny_learner(), []
    run = tiny_run(tmp_path, learner, steps=6, hooks=Hooks(on_event=events.append))
    run.resume()
    plain = learner.objective
    poisoned = set(batch_of(3).samples.tolist()[2:4])

    class Poisoned(Causal):
        def __call__(self, models: Any, batch: TokenBatch) -> dict[str, torch.Tensor]:
            bad = bool(set(batch.samples.tolist()) & poisoned)
            return {"tokens": plain(models, batch)["tokens"] * (poison if bad else 1.0)}

    learner.objective = learner.step_module.objective = Poisoned()
    snapshots: list[dict[str, torch.Tensor]] = []
    run.hooks = Hooks(on_event=events.append, on_row=lambda row: snapshots.append(weights(learner.model)))
    run.fit()
    assert [(e["event"], e["step"], e["samples"]) for e in events] == [("not finite", 3, sorted(poisoned))]
    assert same(snapshots[2], snapshots[3])
    assert not same(snapshots[3], snapshots[4])
    assert all(p.isfinite().all() for p in learner.model.parameters())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[3]["loss"] is None


def test_a_run_that_came_apart_ends_with_advice(tmp_path: Path) -> None:
    learner = tiny_learner()
    with torch.no_grad():
        learner.model.head.weight.fill_(float("nan"))
    run = tiny_run(tmp_path, learner, steps=MOST_SKIPS + 5)
    run.resume()
    with pytest.raises(UserError, match="lower --learning-rate"):
        run.fit()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(number: int, tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    def interrupt(row: dict[str, float]) -> None:
        if row["step"] == 6:
            os.kill(os.getpid(), number)

    run = tiny_run(tmp_path / "stopped", tiny_learner(0.1), hooks=Hooks(on_row=interrupt))
    torch.manual_seed(0)
    run.resume()
    assert run.fit() == number
    learner = tiny_learner(0.1)
    resumed = tiny_run(tmp_path / "stopped", learner)
    assert resumed.resume()
    assert resumed.step == 6
    resumed.fit()
    assert same(weights(learner.model), undisturbed)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_data_under_the_same_recipe_is_refused(tmp_path: Path) -> None:
    killed_at(6, tmp_path)
    run = tiny_run(tmp_path, tiny_learner())
    run.batches.record = lambda: {"data": "another"}
    with pytest.raises(UserError, match="the data is not what"):
        run.resume()
