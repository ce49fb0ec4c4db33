"""Which head a model carries: the file's own, or another that is asked for; and the keys that go with it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from langwright.base.errors import UserError
from langwright.models.families import FAMILIES, ROWS
from langwright.models.family import Family
from langwright.models.keymap import Entry, expand
from langwright.models.model import Model
from langwright.parts.heads import EmbeddingHead

EMBEDDING = "embedding"
"""The head without parameters that every encoder may carry: one vector a text."""


def tasks(family: Family) -> list[str]:
    """All heads that a family may carry, by what they are for."""
    vectors = [] if family.task == "language" else [EMBEDDING]
    return [family.task, *family.heads, *vectors]


def build(family: Family, config: Any, task: str, labels: Sequence[str] = ()) -> Model:
    """A model with uninitialised parameters and the head for `task`; UserError where the family has none or labels
    are missing or too many.
    """
    if task not in tasks(family):
        others = ", ".join(row.name for row in FAMILIES.values() if task in tasks(row))
        where = f"; families with it are {others}" if others else ""
        raise UserError(
            f'head "{task}" is not known for {family.name}; choose one of {", ".join(tasks(family))}{where}'
        )
    if is_labelled(family, task) != bool(labels):
        why = "has no labels; leave them out" if labels else "needs labels: the names of what it tells apart"
        raise UserError(f'a new head "{task}" {why}')
    model = family.build(config)
    if task == family.task:
        return model
    tokens: Any = getattr(model.body.embed, "tokens", None)  # what embeds patches has no table
    if task == EMBEDDING:
        head: nn.Module = EmbeddingHead()
    else:
        head = family.heads[task].make(config, tokens, len(labels))
        if family.heads[task].encoder_only:
            model = Model(model.encoder, config=config)
            model.family = family.name
        for name, module in family.heads[task].beside(config).items():
            model.add_module(name, module)
    model.head, model.task, model.labels = head, task, tuple(labels)
    return model


def new_model(family: str, config: Any, seed: int = 0, head: str | None = None, labels: Sequence[str] = ()) -> Model:
    """A model with fresh parameters in float32 on the CPU, filled as the family's paper says.

    Args:
        family: its name in the table of families.
        config: the family's config.
        seed: of the parameters.
        head: what the head is for, as for `load_model`; the family's own unless given.
        labels: the classes of a classifying head.
    """
    row = ROWS[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(row, config, head or row.task, labels)
        row.initialise(model)
    return model


def is_labelled(family: Family, task: str) -> bool:
    """Whether the logits of this head stand for labels that a user names."""
    return task in family.heads and family.heads[task].labelled


def entries(family: Family, config: Any, task: str) -> list[Entry]:
    """The tensors on disk of a model with the head for `task`."""
    with torch.device("meta"):
        model = build(family, config, task, ("",) * is_labelled(family, task))
    body, head = family.keys(config), family.heads.get(task)
    if head is None:
        return expand(body, (name for name, _ in model.named_parameters()))
    if head.encoder_only:
        encoder = [entry for entry in body if entry.ours[0].startswith("encoder.")]
        body = [replace(entry, ours=("body." + entry.ours[0].removeprefix("encoder."),)) for entry in encoder]
    if head.prefix is not None:
        body = [_moved(entry, family.prefix, head.prefix) for entry in body]
    return expand([*body, *head.keys], (name for name, _ in model.named_parameters()))


def _moved(entry: Entry, old: str, new: str) -> Entry:
    """An entry whose names on disk begin otherwise."""
    disk, *copies = (new + name.removeprefix(old) for name in (entry.disk, *entry.copies))
    return replace(entry, disk=disk, copies=tuple(copies))


def copies(family: Family, model: Model) -> Mapping[str, str]:
    """Tensors on disk that repeat others, and the parameter of ours that each must equal."""
    task = model.task
    if task in family.heads:
        return family.heads[task].copies
    tied = task == "language" and model.head.weight is model.body.embed.tokens
    return {f"{family.tied_head}.weight": "body.embed.tokens"} if tied else {}  # some files hold a copy all the same


def tensors_of_heads(family: Family, config: Any) -> set[str]:
    """The tensors on disk of all heads of the family, as far as they are built here."""
    known = {entry.disk for task in tasks(family) for entry in entries(family, config, task)}
    known |= {name for head in family.heads.values() for name in head.copies}
    return known | {f"{family.tied_head}.weight"} if family.task == "language" else known


def architecture(family: Family, task: str) -> str:
    """`architectures[0]` of a model with the head for `task`."""
    return family.heads[task].architecture if task in family.heads else family.architecture
