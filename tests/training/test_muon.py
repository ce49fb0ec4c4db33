"""Muon: orthogonal updates, and which parameter is moved by which optimizer."""

from typing import Literal

import pytest
import torch

from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.training.muon import Muon, orthogonalise
from langwright.training.optimizers import make_optimizers, scale_factors
from langwright.training.recipe import TrainingRecipe
from tiny import tiny_model


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 48), (2, 48, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonalise(matrices)
    assert made.shape == matrices.shape
    values = torch.linalg.svdvals(made)
    assert values.median() > 0.6
    assert values.max() < 1.3
    nearest = u @ v
    along = (made * nearest).sum((1, 2)) / (made.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))
    assert along.min() > 0.97


def reference(w: torch.Tensor, gradients: list[torch.Tensor], lr: float, decay: float) -> torch.Tensor:
    """Steps by the definition, one matrix at a time, in float64 where Muon uses bfloat16."""
    buffer = torch.zeros_like(w)
    for step, g in enumerate(gradients):
        momentum = 0.85 + 0.1 * step / 100
        buffer = momentum * buffer + (1 - momentum) * g
        x = ((1 - momentum) * g + momentum * buffer).double()
        x = x if w.shape[0] <= w.shape[1] else x.T
        x = x / x.norm()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x if w.shape[0] <= w.shape[1] else x.T
        w = w * (1 - lr * decay) - lr * max(1, w.shape[0] / w.shape[1]) ** 0.5 * x.float()
    return w


def test_two_steps_by_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((8, 8), (32, 8), (8, 32), (32, 8))]
    gradients = [[torch.randn(w.shape, generator=generator) for _ in range(2)] for w in weights]
    expected = [reference(w.detach(), g, 0.02, 0.1) for w, g in zip(weights, gradients, strict=True)]
    muon = Muon(weights, lr=0.02, weight_decay=0.1)
    for step in range(2):
        for w, g in zip(weights, gradients, strict=True):
            w.grad = g[step]
        muon.step()
    for w, e in zip(weights, expected, strict=True):
        torch.testing.assert_close(w.data, e, rtol=0, atol=4e-3)


def test_the_momentum_warms_up() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    muon, gradient = Muon([weight]), torch.eye(4)
    buffer = torch.zeros(4, 4)
    for step in range(120):
        weight.grad = gradient.clone()
        muon.step()
        momentum = 0.85 + 0.1 * min(1, step / 100)
        buffer = momentum * buffer + (1 - momentum) * gradient
    torch.testing.assert_close(muon.state[weight]["momentum"], buffer)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer(kind: Literal["adamw", "muon"]) -> None:
    model = tiny_model()
    recipe = TrainingRecipe(optimizer=kind, learning_rate=1e-3, embedding_learning_rate=0.5)
    optimizers = make_optimizers(dict(model.named_parameters()), recipe)
    held = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    rates = {id(p): g["peak"] for o in optimizers for g in o.param_groups for p in g["params"]}
    assert rates[id(model.body.embed.tokens)] == 0.5
    hidden = model.body.blocks[0].attention.fn.q.weight
    assert rates[id(hidden)] == (0.02 if kind == "muon" else 0.001)
    by_muon = {id(p) for o in optimizers if isinstance(o, Muon) for g in o.param_groups for p in g["params"]}
    wanted = [p for n, p in model.named_parameters() if p.ndim == 2 and ".blocks." in n] if kind == "muon" else []
    assert by_muon == set(map(id, wanted))


def test_muon_leaves_the_tables_of_an_encoder_decoder() -> None:
    """Embeddings shared by two stacks, and distances.

    Queries, whose scores are not divided, go slower, and the table that also makes logits, which are divided, faster.
    """
    model = new_model("t5", by_depth("t5", depth=1, vocabulary=30, context=16, dropout=0.0, width=64), seed=0)
    recipe = TrainingRecipe(optimizer="muon", learning_rate=1e-3)
    factors = scale_factors(model)
    optimizers = make_optimizers(dict(model.named_parameters()), recipe, lambda name: factors.get(name, 1.0))
    peaks = {id(p): (type(o), g["peak"]) for o in optimizers for g in o.param_groups for p in g["params"]}
    rates = {name: peaks[id(p)] for name, p in model.named_parameters()}
    assert rates["encoder.embed.tokens"] == (torch.optim.AdamW, 1e-3 * 64**0.5)
    assert rates["body.terms.0.table"] == (torch.optim.AdamW, 1e-3)
    assert rates["encoder.blocks.0.attention.fn.k.weight"] == (Muon, 0.02)
    for side, branch in (("encoder", "attention"), ("body", "attention"), ("body", "cross")):
        assert rates[f"{side}.blocks.0.{branch}.fn.q.weight"] == (Muon, 0.02 * 64**-0.5)
    assert not scale_factors(new_model("llama", by_depth("llama", 1, 30, 16, 0.0), seed=0))
