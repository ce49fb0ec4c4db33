"""A killed run resumes bit for bit, whatever is trained; and gradual unfreezing."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from langwright.adaptation.method import Method
from langwright.adaptation.methods import BitFit, LayerNorm, PromptTuning, PTuning
from langwright.adaptation.methods.bottleneck import Bottleneck
from langwright.adaptation.methods.ia3 import IA3
from langwright.adaptation.methods.lora import LoRA
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.models.folder import new_model
from langwright.objectives.losses import Causal
from langwright.training.learner import Learner
from langwright.training.loop import Hooks, Run
from langwright.training.unfreezing import Unfreezing
from tiny import CONFIG, RECIPE, Killed, killed_at, same, tiny_model, tiny_run

METHODS: dict[str, Method | Unfreezing | None] = {
    "full": None,
    "unfreezing": Unfreezing(3),
    "lora": LoRA(rank=2, dropout=0.1),
    "ia3": IA3(),
    "prompt": PromptTuning(2),
    "p-tuning": PTuning(2, "lstm", hidden=4, dropout=0.1),
    "prefix": PrefixTuning(2, projection=True, hidden=4),
    "bottleneck": Bottleneck("houlsby"),
    "bitfit": BitFit(),
    "layernorm": LayerNorm(),
}


def run_of(folder: Path, method: Method | Unfreezing | None, dtype: torch.dtype, hooks: Hooks = Hooks()) -> Run:
    model = new_model("gpt2", CONFIG.__class__(**{**vars(CONFIG), "n_positions": 18}), seed=1)
    if isinstance(method, Method):
        method.attach(model, seed=3)
    run = tiny_run(folder, Learner({"model": model}, Causal(), dtype, RECIPE), hooks=hooks)
    if isinstance(method, Unfreezing):
        run.hooks = replace(run.hooks, on_step=lambda step: method.apply(model, step))
    return run


@pytest.mark.parametrize("kind", METHODS)
def test_a_killed_run_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """In bfloat16; commands/test_killed.py kills processes that train in float32."""

    ends = []
    for name, attempts in (("undisturbed", [Hooks()]), ("killed", [killed_at(7), Hooks()])):
        for hooks in attempts:
            torch.manual_seed(0)
            run = run_of(tmp_path / name, METHODS[kind], torch.bfloat16, hooks)
            resumed = run.resume()
            with contextlib.suppress(Killed):
                run.fit()
        ends.append({name: p.detach().clone() for name, p in run.learner.masters.named.items()})
    assert resumed
    assert same(*ends)
    begun = run_of(tmp_path / "begun", METHODS[kind], torch.bfloat16)
    assert not same(ends[0], {name: p.detach() for name, p in begun.learner.masters.named.items()})


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
    run = run_of(tmp_path, Unfreezing(100), torch.float32)
    before = {name: p.detach().clone() for name, p in run.learner.masters.named.items()}
    run.fit()
    moved = {name for name, p in run.learner.masters.named.items() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(("body.blocks.1.", "body.final_norm."))}
    assert {key.split("/")[0] for key in run.learner.tensors()} == moved
