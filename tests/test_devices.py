"""Nothing mixes devices: models train and read on "meta", where any tensor left on the CPU is an error.

What has no values cannot be asked for them: left out are clipping on a CPU, which asks for a norm, and experts, whose
tokens are counted.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from langwright.adaptation.methods import METHODS
from langwright.models.families import LANGUAGE
from langwright.models.families.t5 import T5Config
from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.objectives.language import TokenPrediction
from langwright.parts.cache import KVCache
from langwright.training.learner import Learner
from langwright.training.recipe import TrainingRecipe
from tiny import batch_of, quantise_model

META = torch.device("meta")
T5 = T5Config(53, 32, 8, 64, 2, num_heads=4)
COUNTED = ["mixtral"]
PLAIN = TrainingRecipe(learning_rate=1e-3, clip=0.0)


def model_of(family: str, bits: str | None = None) -> Any:
    model = new_model(family, T5 if family == "t5" else by_depth(family, 2, 53, 64, dropout=0.1))
    if bits is not None:
        quantise_model(model, bits)
    return model.to(META)


def ids_and_mask(rows: int = 2, time: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros((rows, time), dtype=torch.long, device=META), torch.ones((rows, time), device=META).bool()


def backward(model: Any, dtype: torch.dtype, recipe: TrainingRecipe = PLAIN) -> Learner:
    """A batch, which comes from the CPU, forward, loss and gradients."""
    learner = Learner({"model": model}, TokenPrediction(), dtype, recipe)
    learner.backward(batch_of(0))
    return learner


def devices_of_gradients(learner: Learner) -> set[torch.device | None]:
    """Where they are; None among them where one is missing."""
    return {None if p.grad is None else p.grad.device for p in learner.masters.named.values()}


@pytest.mark.parametrize("family", [family for family in LANGUAGE if family not in COUNTED])
def test_decoders(family: str) -> None:
    model, (ids, mask) = model_of(family), ids_and_mask()
    with torch.no_grad():
        state = KVCache(len(model.body.blocks), model.body.own_slots())
        model(ids, mask, state=state)
        assert model(ids[:, :1], mask[:, :1], state=state).device == META
    assert devices_of_gradients(backward(model, torch.bfloat16)) == {META}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_stacks(dtype: torch.dtype) -> None:
    model, (ids, mask) = model_of("t5").to(dtype), ids_and_mask()
    model(ids, ids, mask, mask).sum().backward()
    assert all(p.grad.device == META for p in model.parameters())


@pytest.mark.parametrize("bits", ["int8", "int4", "nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_over_quantised(bits: str, dtype: torch.dtype) -> None:
    """QLoRA, and a step of AdamW with averages in 8 bits; clipping asks a CPU for a value, and is left out."""
    model = model_of("llama", bits)
    METHODS["lora"](rank=4, target="all-linear").attach(model, seed=1)
    learner = backward(model, dtype, replace(PLAIN, optimizer_bits=8))
    assert devices_of_gradients(learner) == {META}
    learner.step(1.0)
    assert {tensor.device for name, tensor in learner.tensors().items() if tensor.numel() > 1} == {META}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_methods(method: str, before: bool) -> None:
    """Attached to a model that is there already, or moved together with it."""
    family = "nanochat" if method == "head" else "gpt2"  # whose head is its token table
    model = new_model(family, by_depth(family, 2, 53, 64, dropout=0.1))
    model = model if before else model.to(META)
    METHODS[method]().attach(model, seed=1)
    assert devices_of_gradients(backward(model.to(META), torch.bfloat16)) == {META}
