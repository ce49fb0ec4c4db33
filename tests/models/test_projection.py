"""What a head hands to a loss is all that its logits are made of: the projected loss is the loss on logits."""

import pytest
import torch
import torch.nn.functional as F
from tests.oracles import perturb, small_config

from langwright.adaptation.attached import choose
from langwright.adaptation.methods.lora import LoRA
from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.model import Model
from langwright.objectives.losses import linear_cross_entropy

CASES = [(name, task) for name, row in FAMILIES.items() for task in tasks.tasks(row) if task in ("language", "masked")]


def build(family: str, task: str) -> Model:
    row = FAMILIES[family]
    with torch.device("meta"):
        model = tasks.build(row, small_config(family), task)
    tied = model.head.weight is model.body.embed.tokens
    head = model.head.to_empty(device="cpu")
    for stack in model.stacks.values() if tied else ():
        stack.embed.tokens = head.weight
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    perturb(head)
    return model


def agree(model: Model) -> None:
    """Values and gradients, with a z-loss, and weights that leave targets out."""
    width = model.body.embed.tokens.shape[1]
    noise = torch.Generator().manual_seed(3)
    hidden = torch.randn(2, 5, width, generator=noise)
    targets, weights = torch.randint(0, 53, (2, 5), generator=noise), torch.rand(2, 5, generator=noise).round()
    found = []
    for projected in (False, True):
        leaf = hidden.clone().requires_grad_()
        if projected:
            loss = linear_cross_entropy(model.head.projection(leaf), targets, weights, z_loss=0.1)
        else:
            logits = model.head(leaf).float()
            each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(2, 5)
            loss = (weights * (each + 0.1 * logits.logsumexp(-1).square())).sum()
        wanted = [leaf, *(p for p in model.head.parameters() if p.requires_grad)]
        found.append((loss, *torch.autograd.grad(loss, wanted, allow_unused=True)))
    for logits_, projected_ in zip(*found, strict=True):
        if logits_ is None:  # of an adapter that is not chosen
            assert projected_ is None
            continue
        assert logits_.abs().max() > 1e-3
        assert (logits_ - projected_).abs().max() <= 1e-4 * max(1, logits_.abs().max())


@pytest.mark.parametrize(("family", "task"), CASES)
def test_every_head(family: str, task: str) -> None:
    agree(build(family, task))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gptj", "t5", "gemma2"])
def test_heads_with_an_adapter(family: str, dora: bool) -> None:
    """Two adapters, chosen alone and one around the other."""
    model, method = build(family, "language"), LoRA(2, target=("lm_head",), dora=dora)
    method.attach(model, "one", seed=0)
    method.attach(model, "two", seed=1)
    perturb(model.head.adapter)
    for names in ([], ["one"], ["one", "two"]):
        choose(model, *names)
        agree(model)
