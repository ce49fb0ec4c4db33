"""Distillation: divergences by hand and against PyTorch, hidden states, and what pays for what."""

import math

import pytest
import torch
import torch.nn.functional as F

from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.objectives.batch import TokenBatch
from langwright.objectives.distillation import Distillation, divergence, linear_divergence, maps_between, spread
from langwright.parts.heads import Projection


def test_a_divergence_by_hand() -> None:
    """Teacher 3/4 and 1/4, student 1/2 and 1/2: 0.75 ln 1.5 + 0.25 ln 0.5."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergence(student, teacher, 1.0).item() == pytest.approx(wanted)
    assert divergence(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * wanted)  # T² times that
    assert divergence(teacher, teacher, 3.0).item() == 0


def test_chunks_are_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 700, 8, generator=generator) for _ in range(2))
    weight, other = (torch.randn(20, 8, generator=generator, requires_grad=w) for w in (True, False))
    bias, weights = torch.randn(20, generator=generator), torch.rand(3, 700, generator=generator)
    mine = Projection(student.requires_grad_(), weight, bias, scale=0.5, softcap=3.0)
    total = linear_divergence(mine, Projection(teacher, other), weights, 2.0)
    said = 3 * torch.tanh((0.5 * student @ weight.t() + bias) / 3)
    each = F.kl_div((said / 2).log_softmax(-1), (teacher @ other.t() / 2).softmax(-1), reduction="none").sum(-1) * 4
    torch.testing.assert_close(total, (each * weights).sum())
    for found, wanted in zip(
        torch.autograd.grad(total, (student, weight)),
        torch.autograd.grad((each * weights).sum(), (student, weight)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def batch() -> TokenBatch:
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    return TokenBatch(ids[:, :-1], ids[:, 1:], torch.ones(2, 8))


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_of_it() -> None:
    config = by_depth("llama", 2, 50, 16, dropout=0.5)
    models = torch.nn.ModuleDict({name: new_model("llama", config, seed=0) for name in ("model", "teacher")})
    models["maps"] = maps_between(2, config.width, config.width)
    models.eval()
    sums = Distillation(hidden=1.0)(models, batch())
    assert sums["teacher"].abs() < 1e-4
    assert sums["hidden"].abs() < 1e-4
    assert sums["tokens"] > 10
    models.train()  # the student has dropout now, and the teacher none
    first, again = (Distillation()(models, batch())["teacher"] for _ in range(2))
    assert first != again
    assert not models["teacher"].training


def test_layers_are_compared_at_the_same_share_of_the_depth() -> None:
    layers = [torch.tensor(float(i)) for i in range(12)]
    assert [int(x) for x in spread(layers, 3)] == [3, 7, 11]
    assert [int(x) for x in spread(layers, 12)] == list(range(12))
    assert [int(x) for x in spread(layers[:4], 8)] == [0, 0, 1, 1, 2, 2, 3, 3]
