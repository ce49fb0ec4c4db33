"""A model's parameters read from the tensors of a folder: none may be missing, none left over."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.models import tasks
from langwright.models.family import Family
from langwright.models.gguf.tensors import open_weights
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.models.surgery import quantise

SHOWN = 20
"""Tensors that are named when they are dropped."""


def read_weights(
    model: Model,
    family: Family,
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype | None,
    fresh: bool,
    relabelled: bool,
    filler: quantise.Fills | None,
    quiet: bool = False,
) -> None:
    """Read every parameter from disk, one tensor at a time; a missing or extra tensor or a wrong shape is an error.

    fresh: the head is not the file's, so that what the file lacks of it may stay new, which `model.new` names.
    relabelled: its last layer must. quiet: nothing is said of that.
    """
    parameters = dict(model.named_parameters())
    task = model.task
    anew = "head.output." if fresh and relabelled and tasks.is_labelled(family, task) else None
    new: list[str] = []
    with open_weights(folder) as weights:
        files = [name for name in weights.files if not name.endswith(family.ignored_keys or ("\0",))]
        present = {_present(name, family): name for name in files}
        left = dict(present)
        for entry in tasks.entries(family, model.config, task):
            ours, found = [parameters.pop(name) for name in entry.ours], _names_in(left, entry, family.prefixes)
            own = [left.pop(name) for name in found] or [present[n] for n in (entry.fallback,) if n in present]
            if (anew and entry.ours[0].startswith(anew)) or (
                not own and fresh and not entry.ours[0].startswith(("body.", "encoder."))
            ):
                new.append(entry.disk)
                set_parameters(ours, [p.data for p in ours], device, dtype or next(model.body.parameters()).dtype)
            elif not own and entry.zero_if_missing:
                set_parameters(
                    ours, [torch.zeros(p.shape) for p in ours], device, dtype or next(model.body.parameters()).dtype
                )
            elif not own:
                raise UserError(f'{folder}: tensor "{entry.disk}" is missing from the weights')
            elif not (filler and filler.take(model, entry, own[0], left, weights)):
                tensor = weights.floats(own[0], entry.shape([p.shape for p in ours]))
                for copy in own[1:]:
                    if not torch.equal(weights.read(copy), tensor):
                        raise weights.refusal(copy, f'differs from "{own[0]}", to which it is tied here')
                set_parameters(ours, entry.split(tensor, [p.shape[0] for p in ours]), device, dtype)
        assert not parameters, f"the key map of {family.name} misses {sorted(parameters)}"
        for disk, name in tasks.copies(family, model).items():
            if disk in left:
                parameter, copy = model.get_parameter(name), left.pop(disk)
                if not _equal(weights.floats(copy, parameter.shape), parameter):
                    raise weights.refusal(copy, f"differs from {name}, to which config.json ties it")
        others = tasks.tensors_of_heads(family, model.config) if left else set()
        dropped = [
            name
            for disk, name in left.items()
            if any(n in others or n.startswith(family.dropped_keys or ("\0",)) for n in (disk, family.prefix + disk))
        ]
        for name in left.values():
            if name not in dropped:
                raise weights.refusal(name, f"is not known for {family.name}")
    model.new = tuple(new)
    if dropped and not quiet:
        shown = sorted(dropped)[:SHOWN] + [f"and {len(dropped) - SHOWN:,} more"] * (len(dropped) > SHOWN)
        say(f'{folder}: dropped, for the head "{task}" has no use for them: {", ".join(shown)}')
    if new and not quiet:
        say(f'{folder}: new, and to be trained, in the head "{task}": {", ".join(new)}')


def set_parameters(
    ours: Sequence[nn.Parameter], pieces: Sequence[Tensor], device: torch.device | str, dtype: torch.dtype | None
) -> None:
    """Give parameters their numbers, in the memory that they have if it fits; the numbers' dtype is kept unless given.

    Memory that is freed here would tell the GNU C library to take whatever training asks for from its heap, which then
    keeps what was freed between what is still held.
    """
    for parameter, piece in zip(ours, pieces, strict=True):
        if parameter.dtype != (dtype or piece.dtype) or parameter.device != torch.device(device):
            parameter.data = torch.empty(piece.shape, dtype=dtype or piece.dtype, device=device)
        parameter.data.copy_(piece)


def _equal(tensor: Tensor, parameter: nn.Parameter, rows: int = 1024) -> bool:
    """Whether a tensor of the file is a parameter's numbers; some rows at a time, for the two may differ in dtype."""
    pieces = zip(tensor.split(rows), parameter.split(rows), strict=True)
    return all(torch.equal(piece.to(own), own) for piece, own in pieces)


def _present(name: str, family: Family) -> str:
    """The name that a tensor of an older file has now, or one whose integers are packed would have in floats."""
    name = name.removesuffix(quantise.PACKED)
    for old, now in family.renamed.items():
        if name.endswith(old):
            return name.removesuffix(old) + now
    return name


def _names_in(names: Collection[str], entry: Entry, prefixes: Sequence[str]) -> list[str]:
    """The names under which a file, which may be one with another head, holds an entry's tensor."""
    wanted: dict[str, None] = {}
    for full in (entry.disk, *entry.copies):
        own = next(prefix for prefix in prefixes if full.startswith(prefix))
        wanted |= dict.fromkeys([full, *(prefix + full.removeprefix(own) for prefix in prefixes)])
    return [name for name in wanted if name in names]
