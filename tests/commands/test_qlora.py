"""QLoRA: adapters over quantised bases, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from langwright import load_model
from langwright.adaptation.methods.lora import LoRA
from langwright.cli import main
from langwright.objectives.language import TokenPrediction
from langwright.training.learner import Learner
from langwright.training.recipe import TrainingRecipe
from refusals import Fails
from tiny import batch_of

QUICK = ["--steps", "6", "--context", "32", "--batch-size", "4", "--sample-every", "0", "--dtype", "float32"]


@pytest.mark.parametrize("bits", ["int8", "int4", "nf4"])
def test_an_adapter_over_a_quantised_base(bits: str, untrained: Path, cats: Path, tmp_path: Path) -> None:
    wishes = ["--method", "lora", "--bits", bits, "--target", "all-linear", "--learning-rate", "0.01"]
    more = ["--optimizer-bits", "8", "--checkpoint"]
    assert main(["finetune", str(untrained), str(cats), str(tmp_path / "out"), *wishes, *more, *QUICK]) == 0
    assert (tmp_path / "out/adapter_model.safetensors").exists()
    new = json.loads((tmp_path / "out/langwright.json").read_text())["forgetting"]["new"]
    assert new["after"] < new["before"] - 0.1
    assert main(["generate", str(untrained), "--adapter", str(tmp_path / "out"), "--max-new-tokens", "3"]) == 0


def test_over_a_compressed_folder(untrained: Path, cats: Path, tmp_path: Path, fails: Fails) -> None:
    assert main(["compress", str(untrained), str(tmp_path / "small"), "--to", "nf4"]) == 0
    out = str(tmp_path / "out")
    fails("finetune", tmp_path / "small", cats, out, *QUICK, names="--method lora")
    assert main(["finetune", str(tmp_path / "small"), str(cats), out, "--method", "lora", *QUICK]) == 0
    assert main(["generate", str(tmp_path / "small"), "--adapter", out, "--max-new-tokens", "3"]) == 0


def test_bits_go_with_an_adapter(untrained: Path, cats: Path, tmp_path: Path, fails: Fails) -> None:
    words = ["finetune", untrained, cats, tmp_path / "out", *QUICK, "--bits", "nf4"]
    fails(*words, names="--method lora")
    fails(*words, "--method", "lora", "--target", "v_proj", "--whole", "q_proj", names="q_proj")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_change_the_adapter_and_no_bit_of_the_base(dtype: torch.dtype, untrained: Path) -> None:
    model = load_model(untrained, bits="nf4")
    LoRA(rank=4, target="all-linear").attach(model)
    quantised: list[Any] = [module for module in model.modules() if hasattr(module, "codes")]
    before = [module.full_weight().clone() for module in quantised]
    frozen = {n: p.detach().to(dtype) for n, p in model.named_parameters() if not p.requires_grad}
    learner = Learner({"model": model}, TokenPrediction(), dtype, TrainingRecipe(learning_rate=1e-2))
    for step in range(3):
        learner.backward(batch_of(step))
        learner.step(1.0)
    assert quantised
    assert all(torch.equal(module.full_weight(), old) for module, old in zip(quantised, before, strict=True))
    assert all(torch.equal(model.get_parameter(name), value) for name, value in frozen.items())
    assert all(not name.startswith("head.") and ".adapter." in name for name in learner.masters.named)
