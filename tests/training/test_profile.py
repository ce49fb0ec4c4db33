"""The profile of a training step: what it counts for which part, and that it changes nothing."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import new_model
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.training.learner import Learner
from langwright.training.loop import Hooks, Run
from langwright.training.profile import PARTS, Profile, shares
from tiny import RECIPE, TinyBatches, same, tiny_run, weights


def a_run(folder: Path, width: int = 64, vocabulary: int = 31, wait: float = 0.0, steps: int = 6) -> Run:
    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=width, n_layer=2, n_head=4)
    ids = torch.randint(0, vocabulary, (4, 64), generator=torch.Generator().manual_seed(0))

    def batch(step: int) -> TokenBatch:
        time.sleep(wait)
        return TokenBatch(ids, ids, torch.ones(ids.shape))

    learner = Learner({"model": new_model("gpt2", config)}, TokenPrediction(), torch.float32, RECIPE)
    return tiny_run(folder, learner, steps, batches=TinyBatches(batch))


def profiled(run: Run, **settings: int) -> dict[str, Any]:
    profile = Profile(run.learner.model, run.progress.steps, **settings)
    run.hooks = Hooks(around_step=profile.step)
    run.fit()
    return profile.record()


def measured_shares(folder: Path, **changes: float) -> dict[str, float]:
    shares = profiled(a_run(folder, **changes), measured=3, warm_up=2)["shares"]  # type: ignore[arg-type]
    assert sum(shares.values()) == pytest.approx(1)
    return shares


def test_every_part_has_its_share(tmp_path: Path) -> None:
    assert set(measured_shares(tmp_path)) == set(PARTS) - {"compiled kernels"}


def test_wide_layers_are_products_backwards_too(tmp_path: Path) -> None:
    """Without the backward pass, two thirds of their work, they would be a small part beside AdamW."""
    found = measured_shares(tmp_path, width=512)
    assert found["products"] > 0.3
    assert found["products"] > 3 * found["attention"]


def test_waiting_for_data_is_the_loader(tmp_path: Path) -> None:
    shares = {wait: measured_shares(tmp_path / str(wait), wait=wait)["loader"] for wait in (0.0, 0.2)}
    assert shares[0.2] > 2 * shares[0.0]


def test_a_large_vocabulary_is_the_loss(tmp_path: Path) -> None:
    found = measured_shares(tmp_path, vocabulary=20_000)
    assert found["loss"] > found["products"]


def test_nothing_else_changes(tmp_path: Path) -> None:
    plain, watched = a_run(tmp_path / "plain"), a_run(tmp_path / "watched")
    torch.manual_seed(0)  # of the dropout
    plain.fit()
    torch.manual_seed(0)
    assert profiled(watched, measured=3, warm_up=2)["seconds_per_step"] > 0
    assert same(weights(plain.learner.model), weights(watched.learner.model))
    assert not any(m._forward_hooks for m in watched.learner.model.modules())


@pytest.mark.parametrize(("steps", "measured"), [(1, 1), (2, 1), (4, 2)])
def test_short_runs_are_measured_as_far_as_they_go(steps: int, measured: int, tmp_path: Path) -> None:
    assert profiled(a_run(tmp_path, steps=steps))["steps"] == measured


@pytest.mark.parametrize(("steps", "measured"), [(4, 2), (2, None)])
def test_a_run_that_ends_before_its_time_is_counted_as_far_as_it_went(
    steps: int, measured: int | None, tmp_path: Path
) -> None:
    """As when a budget cuts the plan: no profiler is left at work."""
    run = a_run(tmp_path)
    run.hooks = Hooks(on_row=lambda row: setattr(run.progress, "steps", steps))
    profile = Profile(run.learner.model, 6, measured=3, warm_up=2)
    run.hooks = replace(run.hooks, around_step=profile.step)
    run.fit()
    assert profile.record().get("steps") == measured
    assert not any(m._forward_hooks for m in run.learner.model.modules())


def test_operations_outside_of_steps_do_not_count() -> None:
    with torch.profiler.profile() as profiler:
        nn.Linear(8, 8)(torch.ones(2, 8))
    assert shares(profiler.events() or [], 1.0) == {"everything else": 1.0}
