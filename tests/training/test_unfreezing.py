"""Gradual unfreezing."""

from pathlib import Path

import torch

from langwright.training.loop import Hooks
from langwright.training.unfreezing import Unfreezing
from tiny import tiny_learner, tiny_model, tiny_run


def test_layers_join_from_the_top_down() -> None:
    names = [name for name, _ in tiny_model().named_parameters()]

    def at(step: int) -> set[str]:
        return {name for name, trains in Unfreezing(3).trains(names, step).items() if trains}

    assert {name.split(".")[1] for name in at(0)} == {"blocks", "final_norm"}
    assert all(name.startswith(("body.blocks.1.", "body.final_norm.")) for name in at(2))
    assert at(3) - at(2) == {name for name in names if name.startswith("body.blocks.0.")}
    assert at(6) == set(names)
    assert at(6) - at(5) == {"body.embed.tokens", "body.embed.positions"}


def test_a_frozen_layer_does_not_move_and_has_no_memory(tmp_path: Path) -> None:
    learner = tiny_learner()
    run = tiny_run(tmp_path, learner, hooks=Hooks(on_step=lambda step: Unfreezing(100).apply(learner.model, step)))
    before = {name: p.detach().clone() for name, p in run.learner.masters.named.items()}
    run.fit()
    moved = {name for name, p in run.learner.masters.named.items() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(("body.blocks.1.", "body.final_norm."))}
    assert {key.split("/")[0] for key in run.learner.tensors()} == moved
