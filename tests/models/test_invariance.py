"""A row's loss is the same alone, padded, among others and packed, whatever the family."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from langwright.data.examples import Example, batch_of
from langwright.models.families import LANGUAGE
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.parts.rope_scaling import DynamicScaling

CONTEXT, LENGTHS = 64, (9, 23, 5, 14)
VARIANTS: dict[str, dict[str, Any]] = {
    "mixtral": {"output_router_logits": True, "router_aux_loss_coef": 0.5},
    "mistral": {"sliding_window": 6},
}


def made(family: str) -> Model:
    """A tiny model whose hidden states matter, longer texts than rotary positions were trained on included."""
    config = replace(by_depth(family, 2, 50, CONTEXT, 0.0, width=64), **VARIANTS.get(family, {}))  # type: ignore[type-var]
    model = new_model(family, config, seed=3)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 50, length + 1) for length in LENGTHS]
    return [Example(ids[:-1], ids[1:], rng.random(len(ids) - 1) < 0.7) for ids in rows]


def wide(rows: list[list[Example]]) -> TokenBatch:
    batch = batch_of(rows, np.arange(len(rows)), lambda longest: CONTEXT)
    assert isinstance(batch, TokenBatch)
    return batch


def narrowed(batch: TokenBatch, width: int) -> TokenBatch:
    """The same without the padding at the right."""
    tensors = {name: getattr(batch, name)[:, :width] for name in ("ids", "targets", "weights")}
    return replace(batch, **tensors, mask=None)


def padded(batch: TokenBatch, width: int) -> TokenBatch:
    """The same with more padding at the right."""
    more = (0, width - batch.ids.shape[1])
    mask = torch.ones_like(batch.ids, dtype=torch.bool) if batch.mask is None else batch.mask
    tensors = {name: torch.nn.functional.pad(getattr(batch, name), more) for name in ("ids", "targets", "weights")}
    return replace(batch, **tensors, mask=torch.nn.functional.pad(mask, more))


def gradients(model: Model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("family", LANGUAGE)
def test_padding_neighbours_and_packing_change_no_loss(family: str) -> None:
    model, rows, loss = made(family), examples(), TokenPrediction()
    cut = [wide([[row]]) for row in rows]
    ways = {
        "alone": [narrowed(batch, len(row.ids)) for batch, row in zip(cut, rows, strict=True)],
        "padded": cut,
        "padded more": [padded(batch, CONTEXT + 7) for batch in cut] if model.body.max_positions is None else cut,
        "among others": [wide([[row] for row in rows])],
        "packed": [wide([rows])],
        "packed in two": [wide([rows[:2], rows[2:]])],
    }
    rope = model.body.rope
    for scaled in (None,) if rope is None else (rope, replace(rope, scaling=DynamicScaling(3.0, 4))):
        model.body.rope = scaled
        found = {}
        for name, batches in ways.items():
            model.zero_grad()
            total = torch.stack([sum(loss({"model": model}, batch).values()) for batch in batches]).sum()
            total.backward()
            found[name] = total.item(), gradients(model)
        for name, (value, gradient) in found.items():
            assert value == pytest.approx(found["alone"][0], rel=1e-5), name
            torch.testing.assert_close(gradient, found["alone"][1], atol=2e-4, rtol=1e-3)
