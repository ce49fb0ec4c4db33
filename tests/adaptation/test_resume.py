"""A killed run in bfloat16 resumes bit for bit, whatever is trained; commands/test_killed.py kills float32 ones."""

import contextlib
from dataclasses import replace
from functools import partial
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
from langwright.objectives.language import TokenPrediction
from langwright.training.learner import Learner
from langwright.training.loop import Hooks, Run
from langwright.training.unfreezing import Unfreezing
from tiny import CONFIG, RECIPE, Killed, killed_at, same, tiny_run

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


def run_of(folder: Path, method: Method | Unfreezing | None, hooks: Hooks = Hooks()) -> Run:
    model = new_model("gpt2", replace(CONFIG, n_positions=18), seed=1)
    if isinstance(method, Method):
        method.attach(model, seed=3)
    if isinstance(method, Unfreezing):
        hooks = replace(hooks, on_step=partial(method.apply, model))
    return tiny_run(folder, Learner({"model": model}, TokenPrediction(), torch.bfloat16, RECIPE), hooks=hooks)


@pytest.mark.parametrize("kind", METHODS)
def test_a_killed_run_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    ends = []
    for name, attempts in (("undisturbed", [Hooks()]), ("killed", [killed_at(7), Hooks()])):
        for hooks in attempts:
            torch.manual_seed(0)
            run = run_of(tmp_path / name, METHODS[kind], hooks)
            resumed = run.resume()
            with contextlib.suppress(Killed):
                run.fit()
        ends.append({name: p.detach().clone() for name, p in run.learner.masters.named.items()})
    assert resumed
    assert same(*ends)
    begun = run_of(tmp_path / "begun", METHODS[kind])
    assert not same(ends[0], {name: p.detach() for name, p in begun.learner.masters.named.items()})
