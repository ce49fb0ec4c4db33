"""Weights left out: single ones, n of every m, and whole heads and layers."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from langwright.base.errors import UserError
from langwright.compression.calibration import CalibratedBlock, Moments, Windows, visit_blocks
from langwright.compression.quantise import refuse_folders, write_beside, writer
from langwright.compression.second_order import Column, Matrix, correct
from langwright.models import tasks
from langwright.models.families import ROWS
from langwright.models.folder import OpenedFolder
from langwright.models.keymap import to_disk
from langwright.models.model import Model
from langwright.parts.attention import Attention

Method = Literal["magnitude", "wanda", "sparsegpt"]
Kept = Bool[Tensor, "rows columns"]


class Pattern(NamedTuple):
    """How many weights stay.

    share: of all that go, 0 to 1. of: where it is given, `keep` of each so many neighbours stay instead, as graphics
    cards want it (2 of 4).
    """

    share: float
    keep: int = 0
    of: int = 0


def pattern_of(text: str) -> Pattern:
    """2:4 and the like; ValueError for anything else."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or not 0 < int(found[1]) < int(found[2]):
        raise ValueError("must be how many stay of how many, such as 2:4")
    keep, of = map(int, found.groups())
    return Pattern(1 - keep / of, keep, of)


def kept(score: Float[Tensor, "rows columns"], pattern: Pattern) -> Kept:
    """Which weights stay: of each row, or of each row's groups of neighbours, those with the highest scores."""
    if pattern.of:
        if score.shape[1] % pattern.of:
            raise UserError(f"rows of {score.shape[1]} weights cannot be cut into groups of {pattern.of}")
        groups = score.unflatten(1, (-1, pattern.of))
        best = groups.topk(pattern.keep, 2).indices
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, best, True).flatten(1)
    worst = score.argsort(dim=1, stable=True)[:, : round(score.shape[1] * pattern.share)]
    return torch.ones_like(score, dtype=torch.bool).scatter_(1, worst, False)


def _over_all(score: Float[Tensor, "rows columns"], pattern: Pattern) -> Kept:
    """The same, where single weights of all rows compete with each other."""
    return kept(score, pattern) if pattern.of else kept(score.reshape(1, -1), pattern).view_as(score)


def magnitude(weight: Matrix, moments: Moments, pattern: Pattern) -> Matrix:
    """The weights nearest to 0 go, wherever in the matrix they are."""
    return weight * _over_all(weight.abs(), pattern)


def wanda(weight: Matrix, moments: Moments, pattern: Pattern) -> Matrix:
    """Those of a row go whose |w| ‖x‖ is least (Sun et al., 2023). Nothing else changes."""
    return weight * kept(weight.abs() * moments.second.diagonal().sqrt(), pattern)


def sparsegpt(weight: Matrix, moments: Moments, pattern: Pattern) -> Matrix:
    """Those go whose loss, w² / d² with d the pivot of their column, is least among 128 columns, and the columns to
    their right make it good (Frantar and Alistarh, 2023).
    """

    def decide(part: Matrix, columns: Tensor, pivots: Tensor) -> Callable[[int, Column], Column]:
        stay = _over_all((part / pivots) ** 2, pattern) if not pattern.of else torch.ones_like(part, dtype=torch.bool)

        def drop(j: int, column: Column) -> Column:
            if pattern.of and j % pattern.of == 0:  # by now the columns before have changed these
                group = slice(j, j + pattern.of)
                stay[:, group] = kept((part[:, group] / pivots[group]) ** 2, pattern)
            return column * stay[:, j]

        return drop

    return correct(weight, moments, decide, block=max(1, 128 // (pattern.of or 1)) * (pattern.of or 1))


METHODS: dict[Method, Callable[[Matrix, Moments, Pattern], Matrix]] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparsegpt,
}


def prune_weights(model: Model, windows: Windows, method: Method, pattern: Pattern) -> None:
    """Leave weights out of the linear layers, block by block; what no token reads goes by magnitude."""

    def visit(block: CalibratedBlock) -> None:
        for group in block.groups:
            moments = Moments.zeros(group.inputs) if method == "magnitude" else block.moments(group)[0]
            how = METHODS[method] if moments.tokens else magnitude
            for weight in group.weights:
                weight.set(how(weight.matrix.float(), moments, pattern))

    visit_blocks(model, windows, visit)


def keep_zeros(model: Model) -> None:
    """Let weights of linear layers that are 0 stay so in training: their gradient is 0, and what AdamW makes of it."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and name.startswith("body.blocks."):
            zeros = parameter == 0
            parameter.register_hook(lambda gradient, zeros=zeros: gradient.masked_fill(zeros.to(gradient.device), 0))


# Whole layers and heads


def remove_layers(model: Model, windows: Windows, count: int) -> tuple[Model, list[int]]:
    """The model without the layers that change the residual stream least, and their numbers.

    A layer's influence is 1 less the mean cosine of the hidden states before and after it (ShortGPT, Men et al., 2024).
    UserError where the family's config cannot say what is left.
    """
    influence: list[float] = []

    def visit(block: CalibratedBlock) -> None:
        influence.append(block.influence())

    visit_blocks(model, windows, visit)
    removed = sorted(sorted(range(len(influence)), key=influence.__getitem__)[:count])
    left = [layer for layer in range(len(influence)) if layer not in removed]
    config, shape = model.config, model.config.shape
    changes: dict[str, object] = {shape.layers: len(left)}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, tuple) and len(value) == len(influence):  # one entry a layer
            changes[field.name] = tuple(value[layer] for layer in left)
    smaller = _rebuilt(model, changes)
    if smaller.body.biases != [model.body.biases[layer] for layer in left]:
        raise UserError(f"{model.family}: its config cannot say which window each of the layers that are left has")
    state = model.state_dict()
    old = {f"body.blocks.{new}.": f"body.blocks.{layer}." for new, layer in enumerate(left)}
    for name, parameter in smaller.named_parameters():
        block = re.match(r"body\.blocks\.\d+\.", name)
        parameter.data.copy_(state[old[block[0]] + name[block.end() :] if block else name])
    return smaller, removed


def remove_heads(model: Model, windows: Windows, count: int) -> tuple[Model, list[list[int]]]:
    """The model without `count` heads in each layer, those whose part of the output is least, and their numbers.

    A head's part is the mean of ‖W_o a‖² over the text. Queries that share keys and values go together. UserError for a
    family whose config does not say the width of a head apart from their number.
    """
    config, field = model.config, model.config.shape.head_dim
    heads = getattr(config, str(config.shape.heads), 0)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if not hasattr(config, field) or not hasattr(config, "num_attention_heads"):
        raise UserError(f"--heads: the config of {model.family} has no width of a head apart from their number")
    size = heads // kv_heads
    if count % size or count >= heads:
        raise UserError(f"--heads {count}: must be a multiple of {size}, which share keys and values, below {heads}")
    removed: list[list[int]] = []
    changed: dict[str, Tensor] = {}

    def visit(block: CalibratedBlock) -> None:
        for name, attention in block.module.named_modules():
            if isinstance(attention, Attention):
                units = _parts(block, attention, kv_heads)
                gone = set(units.argsort(stable=True)[: count // size].tolist())
                left = torch.tensor([unit for unit in range(kv_heads) if unit not in gone])
                removed.append(sorted(unit * size + i for unit in gone for i in range(size)))
                for key, parameter in attention.named_parameters():
                    layer = key.partition(".")[0]
                    if layer in ("q", "k", "v"):
                        parts = parameter.data.unflatten(0, (kv_heads, -1))[left].flatten(0, 1)
                    elif key == "output.weight":
                        parts = parameter.data.unflatten(1, (kv_heads, -1))[:, left].flatten(1)
                    else:
                        continue
                    changed[f"body.blocks.{block.layer}.{name}.{key}"] = parts

    visit_blocks(model, windows, visit)
    changes = {"num_attention_heads": heads - count, field: config.head_width}
    if getattr(config, "num_key_value_heads", None):
        changes["num_key_value_heads"] = kv_heads - count // size
    smaller, state = _rebuilt(model, changes), model.state_dict() | changed
    for name, parameter in smaller.named_parameters():
        parameter.data.copy_(state[name])
    return smaller, removed


def _parts(block: CalibratedBlock, attention: Attention, units: int) -> Float[Tensor, " units"]:
    """tr(W_h Σ a aᵀ W_hᵀ) of the columns of each group of heads in the output layer."""
    group = next(g for g in block.groups if attention.output in g.weights[0].layers)
    second, weight = block.moments(group)[0].second, attention.output.full_weight().float()
    width = weight.shape[1] // units
    each = (slice(i, i + width) for i in range(0, weight.shape[1], width))
    return torch.stack([(weight[:, part] @ second[part, part] * weight[:, part]).sum() for part in each])


def _rebuilt(model: Model, changes: dict[str, object]) -> Model:
    """An empty model of the same family with another config."""
    try:
        config = dataclasses.replace(model.config, **changes)
    except ValueError as error:
        raise UserError(f"{model.family}: {error}") from None
    made = tasks.build(ROWS[model.family], config, model.task, model.labels)
    return made.to(next(model.parameters()).dtype).eval()


def write_pruned(source: OpenedFolder, model: Model, out: Path, record: dict[str, object]) -> dict[str, object]:
    """Write a pruned model with the small files of its source; the sizes and how many weights are 0, for a report."""
    refuse_folders(source, out)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    tensors = to_disk(tasks.entries(source.family, model.config, model.task), parameters)
    dumped, before = source.family.dump(model.config), source.family.dump(source.config)
    fields = source.fields | {name: value for name, value in dumped.items() if before.get(name) != value}
    linear = [p for name, p in parameters.items() if p.ndim == 2 and name.startswith("body.blocks.")]
    report: dict[str, object] = {
        **record,
        "parameters": sum(p.numel() for p in parameters.values()),
        "zeros": sum(int((p == 0).sum()) for p in linear) / max(1, sum(p.numel() for p in linear)),
    }
    with writer(out) as write:
        for name, tensor in tensors.items():
            write(name, tensor)
    write_beside(source, out, fields, {"pruned": {"from": str(source.path), **report}})
    return report
