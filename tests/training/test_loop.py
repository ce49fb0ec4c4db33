"""The loop: exact resume, broken checkpoints, numbers that are not finite, signals."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.training.loop import MOST_SKIPS, Hooks
from refusals import refused
from tiny import Killed, TinyBatches, batch_of, killed_at, same, tiny_learner, tiny_run, weights


def kill(step: int, folder: Path, **changes: Any) -> None:
    """Begin a run and lose the process at the end of a step."""
    run = tiny_run(folder, tiny_learner(0.1, **changes), hooks=killed_at(step))
    torch.manual_seed(0)
    run.resume()
    with pytest.raises(Killed):
        run.fit()


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, torch.Tensor]:
    learner = tiny_learner(0.1)
    torch.manual_seed(0)
    assert tiny_run(tmp_path / "undisturbed", learner).fit() is None
    return weights(learner.model)


def test_with_muon_too_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"dtype": torch.bfloat16, "optimizer": "muon"}
    kill(7, tmp_path / "killed", **changes)
    ends = []
    for name in ("undisturbed", "killed"):
        run = tiny_run(tmp_path / name, tiny_learner(0.1, **changes))
        torch.manual_seed(0)
        assert run.resume() == (name == "killed")
        run.fit()
        ends.append({name: p.detach() for name, p in run.learner.masters.named.items()})
    assert same(*ends)


@pytest.mark.parametrize("step", [3, 5, 8, 11])
def test_a_killed_run_resumes_bit_for_bit(step: int, tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    kill(step, tmp_path / "killed")
    learner = tiny_learner(0.1)
    # The state of the checkpoint counts, not this one, unless nothing was saved yet: the command begins again.
    torch.manual_seed(0 if step <= 4 else 99)
    run = tiny_run(tmp_path / "killed", learner)
    assert run.resume() == (step > 4)
    assert run.progress.step == (step - 1) // 4 * 4  # the kill comes before that step's own checkpoint
    assert run.fit() is None
    assert same(weights(learner.model), undisturbed)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


def test_a_resumed_run_with_other_data_differs(tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    """The negative control: forget the data position, and the end is another."""
    kill(6, tmp_path / "killed")
    learner = tiny_learner(0.1)
    run = tiny_run(tmp_path / "killed", learner, batches=TinyBatches(lambda step: batch_of(step - 4)))
    run.resume()
    run.fit()
    assert not same(weights(learner.model), undisturbed)


def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    kill(11, tmp_path / "killed")
    newest = sorted((tmp_path / "killed/checkpoints").iterdir())[-1]
    with open(newest / "optimizer.safetensors", "r+b") as file:
        file.truncate(100)
    learner, events = tiny_learner(0.1), []
    run = tiny_run(tmp_path / "killed", learner, hooks=Hooks(on_event=events.append))
    assert run.resume()
    assert run.progress.step == 4
    assert "optimizer.safetensors: broken" in events[0]["detail"]
    run.fit()
    assert same(weights(learner.model), undisturbed)


def test_a_changed_state_is_noticed(tmp_path: Path) -> None:
    kill(11, tmp_path / "killed")
    newest = sorted((tmp_path / "killed/checkpoints").iterdir())[-1] / "state.json"
    newest.write_text(newest.read_text().replace('"step": 8', '"step": 9'))
    run = tiny_run(tmp_path / "killed", tiny_learner(0.1))
    assert run.resume()
    assert run.progress.step == 4
    newest.write_text('{"format_version": 1}')
    assert tiny_run(tmp_path / "killed", tiny_learner(0.1)).resume()


def test_when_every_checkpoint_is_broken_nothing_is_begun_afresh(tmp_path: Path) -> None:
    kill(11, tmp_path / "killed")
    for folder in (tmp_path / "killed/checkpoints").iterdir():
        (folder / "state.json").write_text("{")
    with refused(tmp_path / "killed/checkpoints"):
        tiny_run(tmp_path / "killed", tiny_learner()).resume()


def test_a_changed_recipe_is_refused_by_name(tmp_path: Path) -> None:
    kill(6, tmp_path / "killed")
    with refused(tmp_path / "killed", "seed = 1"):
        tiny_run(tmp_path / "killed", tiny_learner(), identity={"seed": 2}).resume()
    assert tiny_run(tmp_path / "killed", tiny_learner(), identity={"seed": 2}).resume(("seed",))


def test_checkpoints_are_dropped_beyond_the_last_two(tmp_path: Path) -> None:
    tiny_run(tmp_path, tiny_learner()).fit()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]


def test_saving_comes_before_evaluating(tmp_path: Path) -> None:
    def fail(stopped: object) -> dict[str, float]:
        raise MemoryError

    run = tiny_run(tmp_path, tiny_learner(save_every="5"), hooks=Hooks(evaluate=fail))
    with pytest.raises(MemoryError):
        run.fit()
    assert (tmp_path / "checkpoints/step-00000005").is_dir()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_never_reaches_the_weights(poison: float, tmp_path: Path) -> None:
    learner, events = tiny_learner(), []
    plain = learner.objective
    poisoned = set(batch_of(3).samples.tolist()[2:4])

    class Poisoned(TokenPrediction):
        def __call__(self, models: Any, batch: TokenBatch) -> dict[str, torch.Tensor]:
            bad = bool(set(batch.samples.tolist()) & poisoned)
            return {"tokens": plain(models, batch)["tokens"] * (poison if bad else 1.0)}

    learner.objective = learner.step_module.objective = Poisoned()
    snapshots: list[dict[str, torch.Tensor]] = []
    hooks = Hooks(on_event=events.append, on_row=lambda row: snapshots.append(weights(learner.model)))
    tiny_run(tmp_path, learner, steps=6, hooks=hooks).fit()
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
    with refused("--learning-rate"):
        tiny_run(tmp_path, learner, steps=MOST_SKIPS + 5).fit()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(number: int, tmp_path: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    def interrupt(row: dict[str, float]) -> None:
        if row["step"] == 6:
            os.kill(os.getpid(), number)

    run = tiny_run(tmp_path / "stopped", tiny_learner(0.1), hooks=Hooks(on_row=interrupt))
    torch.manual_seed(0)
    assert run.fit() == number
    learner = tiny_learner(0.1)
    resumed = tiny_run(tmp_path / "stopped", learner)
    assert resumed.resume()
    assert resumed.progress.step == 6
    resumed.fit()
    assert same(weights(learner.model), undisturbed)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_data_under_the_same_recipe_is_refused(tmp_path: Path) -> None:
    kill(6, tmp_path)
    run = tiny_run(tmp_path, tiny_learner(), batches=TinyBatches(name="another"))
    with refused(tmp_path, "the data"):
        run.resume()
