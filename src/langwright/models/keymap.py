"""How a family's parameters are named and laid out on disk."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """One tensor on disk and the parameters of ours that it holds.

    disk: its name there. ours: our parameters, joined along the rows (one for a plain copy).
    transposed: the disk holds [inputs, outputs] (the Conv1D of GPT-2).
    heads: the rows of the parts take turns head by head, this many times; None where one part follows the other.
    copies: other names under which files hold the same tensor, beside this one or in its place.
    repeated: it is written under those names as well, since `transformers` looks there.
    fallback: a tensor that stands for it in files without it. zero_if_missing: files without it mean zeros.
    """

    disk: str
    ours: tuple[str, ...]
    transposed: bool = False
    heads: int | None = None
    copies: tuple[str, ...] = ()
    repeated: bool = False
    fallback: str | None = None
    zero_if_missing: bool = False

    def split(self, tensor: Tensor, rows: Iterable[int]) -> list[Tensor]:
        """Our parameters out of the disk's tensor; `rows` are the first sizes of each."""
        upright = tensor.t() if self.transposed else tensor
        if self.heads is None:
            return list(upright.split(list(rows)))
        parts = upright.unflatten(0, (self.heads, len(self.ours), -1)).unbind(1)
        return [part.flatten(0, 1) for part in parts]

    def locate(self, rows: Sequence[int]) -> list[Tensor]:
        """Where our parameters lie: the numbers of their rows in the upright tensor of the disk."""
        return replace(self, transposed=False).split(torch.arange(sum(rows)), rows)

    def shape(self, ours: Sequence[torch.Size]) -> list[int]:
        """The shape of the disk's tensor."""
        upright = [sum(shape[0] for shape in ours), *ours[0][1:]]
        return upright[::-1] if self.transposed else upright

    def join(self, tensors: list[Tensor]) -> Tensor:
        """The disk's tensor out of our parameters."""
        if self.heads is not None:
            joined = torch.stack([x.unflatten(0, (self.heads, -1)) for x in tensors], 1).flatten(0, 2)
        else:
            joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return (joined.t() if self.transposed else joined).contiguous()


Table = Mapping[str, str | tuple[str, ...]]
"""Names on disk -> our name, or names where they are fused there."""
QKV = ("attention.fn.q", "attention.fn.k", "attention.fn.v")
"""The three linear layers of a layer that many files hold as one."""


def names(table: Table, transposed: bool = False, heads: int | None = None) -> list[Entry]:
    """The templates of a table."""
    return [Entry(disk, (ours,) if isinstance(ours, str) else ours, transposed, heads) for disk, ours in table.items()]


def projections(disk: str, ours: str = "attention.fn", output: str = "o") -> list[Entry]:
    """The four linear layers of an attention that are tensors of their own; {} in `disk` is q, k, v and `output`."""
    letters = {"q": "q", "k": "k", "v": "v", output: "output"}
    return names({disk.format(letter): f"{ours}.{own}" for letter, own in letters.items()})


def within(disk: str, ours: str, templates: Iterable[Entry]) -> list[Entry]:
    """The same templates with what stands before their names."""
    return [replace(t, disk=f"{disk}.{t.disk}", ours=tuple(f"{ours}.{name}" for name in t.ours)) for t in templates]


def layers(disk: str, templates: Iterable[Entry], ours: str = "body") -> list[Entry]:
    """The templates of the layers of a stack, whose numbers follow `disk`."""
    return within(f"{disk}.*", f"{ours}.blocks.*", templates)


def expand(templates: Iterable[Entry], parameters: Iterable[str]) -> list[Entry]:
    """The entries of a model, in the order of its parameters.

    Args:
        templates: entries whose names have `*` for the number of a layer or expert, and are those of modules, which
            stand for their weight and bias, or of parameters. Those of parameters that the model lacks are passed over.
        parameters: the names of the model's parameters.
    """
    first = {template.ours[0]: template for template in templates}
    fused = {name for template in first.values() for name in template.ours[1:]}
    entries = []
    for parameter in parameters:
        numbers, plain = _NUMBER.findall(parameter), _NUMBER.sub("*", parameter)
        module, dot, kind = plain.rpartition(".")
        if plain in first:
            module, dot, kind = plain, "", ""
        if module not in fused:
            names = (f"{name}{dot}{kind}" for name in (first[module].disk, *first[module].ours))
            disk, *ours = (_numbered(name, numbers) for name in names)
            entries.append(replace(first[module], disk=disk, ours=tuple(ours)))
    return entries


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def _numbered(name: str, numbers: Iterable[str]) -> str:
    for number in numbers:
        name = name.replace("*", number, 1)
    return name


def to_disk(entries: Iterable[Entry], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a checkpoint under their names on disk."""
    tensors = {}
    for entry in entries:
        tensors[entry.disk] = entry.join([parameters[name].detach() for name in entry.ours])
        if entry.repeated:
            tensors |= {name: tensors[entry.disk].clone() for name in entry.copies}
    return tensors
