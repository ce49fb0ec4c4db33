"""The profile of a training step: what it counts for which part, and that it changes nothing."""

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import new_model
from langwright.objectives.batch import TokenBatch
from langwright.training.learner import Learner
from langwright.training.loop import Hooks, Run
from langwright.training.losses import Causal
from langwright.training.profile import PARTS, Profile, shares
from tiny import RECIPE, TinyBatches, tiny_run


def a_run(folder: Path, width: int = 64, vocabulary: int = 31, wait: float = 0.0, steps: int = 6) -> Run:
    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=width, n_layer=2, n_head=4)
    ids = torch.randint(0, vocabulary, (4, 64), generator=torch.Generator().manual_seed(0))

    def batch(step: int) -> TokenBatch:
        time.sleep(wait)
        return TokenBatch(ids, ids, torch.ones(ids.shape))

    learner = Learner({"model": new_model("gpt2", config)}, Causal(), torch.float32, RECIPE)
    return tiny_run(folder, learner, steps, batches=TinyBatches(batch))


def profiled(folder: Path, **changes: float) -> Profile:
    run, profile = a_run(folder, **changes), Profile(steps=3, warm_up=2)  # type: ignore[arg-type]
    watch(profile, run)
    run.fit()
    return profile


def watch(profile: Profile, run: Run) -> None:
    run.hooks = Hooks(around_step=profile.step)
    profile.watch(run.learner.model, run.progress.steps)


def test_every_part_has_its_share(tmp_path: Path) -> None:
    profile = profiled(tmp_path)
    assert profile.measured == 3
    assert profile.seconds > 0
    assert set(profile.shares) == set(PARTS) - {"compiled kernels"}
    assert sum(profile.shares.values()) == pytest.approx(1)


def test_wide_layers_are_products_backwards_too(tmp_path: Path) -> None:
    """Without the backward pass, two thirds of their work, they would be a small part beside AdamW."""
    found = profiled(tmp_path, width=512).shares
    assert found["products"] > 0.3
    assert found["products"] > 3 * found["attention"]


def test_waiting_for_data_is_the_loader(tmp_path: Path) -> None:
    assert profiled(tmp_path, wait=0.2).shares["loader"] > 0.5


def test_a_large_vocabulary_is_the_loss(tmp_path: Path) -> None:
    found = profiled(tmp_path, vocabulary=20_000).shares
    assert found["loss"] > found["products"]


def test_nothing_else_changes(tmp_path: Path) -> None:
    plain, watched = a_run(tmp_path / "plain"), a_run(tmp_path / "watched")
    watch(Profile(steps=3, warm_up=2), watched)
    for run in (plain, watched):
        torch.manual_seed(0)  # of the dropout
        run.fit()
    pairs = zip(plain.learner.masters.parameters, watched.learner.masters.parameters, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(m._forward_hooks for m in watched.learner.model.modules())


@pytest.mark.parametrize(("steps", "measured"), [(1, 1), (2, 1), (4, 2)])
def test_short_runs_are_measured_as_far_as_they_go(steps: int, measured: int, tmp_path: Path) -> None:
    run, profile = a_run(tmp_path, steps=steps), Profile()
    watch(profile, run)
    run.fit()
    assert profile.measured == measured


def test_a_run_that_ends_before_its_time_is_counted_as_far_as_it_went(tmp_path: Path) -> None:
    """As when a budget cuts the plan: a mean, shares, and no profiler left at work."""
    run, profile = a_run(tmp_path, steps=6), Profile(steps=3, warm_up=2)
    watch(profile, run)
    run.progress.steps = 4
    run.fit()
    profile.finish()
    assert profile.measured == 2
    assert sum(profile.shares.values()) == pytest.approx(1)
    assert not any(m._forward_hooks for m in run.learner.model.modules())
    again = profile.record()
    profile.finish()
    assert profile.record() == again


def test_operations_outside_of_steps_do_not_count() -> None:
    with torch.profiler.profile() as profiler:
        nn.Linear(8, 8)(torch.ones(2, 8))
    assert shares(profiler.events() or [], 1.0) == {"everything else": 1.0}
