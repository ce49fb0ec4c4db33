"""What training is said to take is what it takes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from langwright.adaptation.methods.lora import LoRA
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.planning.memory import kept_activations, training_memory
from langwright.training.learner import Learner
from langwright.training.losses import Causal
from langwright.training.optimizers import Rates
from tiny import batch_of, quantise_model


def model_of(family: str, bits: str | None = None, rank: int = 0) -> Model:
    made = new_model(family, by_depth(family, 2, 300, 32, dropout=0.0))
    if bits is not None:
        quantise_model(made, bits)
    if rank:
        LoRA(rank=rank).attach(made)
    return made


def really_kept(model: Model, rows: int, time: int, dtype: torch.dtype) -> int:
    """By a pass with numbers."""
    storages: dict[int, int] = {}
    model = model.to(dtype).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        hidden = model.body(torch.zeros(rows, time, dtype=torch.long))
    del hidden
    return sum(size for place, size in storages.items() if place not in own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("what", [{}, {"rank": 4}, {"bits": "nf4", "rank": 4}])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_activations(family: str, what: dict[str, Any], dtype: torch.dtype) -> None:
    model = model_of(family, **what)
    predicted = kept_activations(model, 3, 32, dtype)
    assert predicted == really_kept(model, 3, 32, dtype)
    model.body.recompute = True
    assert 0.5 * predicted < kept_activations(model, 3, 32, dtype) < 0.75 * predicted  # one of two blocks, and inputs


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_else(dtype: torch.dtype, bits: int) -> None:
    model = model_of("gpt2", "nf4", rank=4)
    predicted = training_memory(model, 8, 16, dtype, bits)
    learner = Learner({"model": model}, Causal(), dtype, Rates(bits=bits))
    learner.backward(batch_of(0))
    learner.step(1.0)
    parameters = sum(p.nbytes for p in model.parameters())
    assert predicted.weights == parameters + sum(b.nbytes for b in model.buffers())
    masters = sum(p.nbytes for p in learner.masters.parameters)
    assert predicted.masters == (masters if dtype == torch.bfloat16 else 0)
    steps = sum(4 for _ in learner.masters.parameters)
    assert predicted.optimizer == sum(tensor.nbytes for tensor in learner.tensors().values()) - steps
    working = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert predicted.gradients == masters + (working if dtype == torch.bfloat16 else 0)
    assert training_memory(model, 8, 16, dtype, bits, host=True).optimizer == 0
