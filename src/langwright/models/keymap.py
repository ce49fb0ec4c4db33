"""How a family's parameters are named and laid out on disk."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from langwright.base.errors import UserError


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
"""Names of maps and norms on disk -> our name, or names where they are fused there."""
QKV = ("attention.fn.q", "attention.fn.k", "attention.fn.v")
"""The three maps of a layer that many files hold as one."""


def affine(disk: str, *ours: str, bias: bool = True, transposed: bool = False, heads: int | None = None) -> list[Entry]:
    """Weight and bias of a linear map or a norm; several of ours where the disk holds them fused."""
    entries = [Entry(f"{disk}.weight", tuple(f"{name}.weight" for name in ours), transposed, heads)]
    return entries + [Entry(f"{disk}.bias", tuple(f"{name}.bias" for name in ours), heads=heads)] * bias


def affines(table: Table, bias: bool = True, transposed: bool = False) -> list[Entry]:
    """`affine` of each row of a table."""
    rows = {disk: (ours,) if isinstance(ours, str) else ours for disk, ours in table.items()}
    return [entry for disk, ours in rows.items() for entry in affine(disk, *ours, bias=bias, transposed=transposed)]


def projections(disk: str, ours: str, biased: str = "", output: str = "o") -> list[Entry]:
    """The four maps of an attention that are tensors of their own.

    disk: their name there, in which {} stands for q, k, v and `output`. biased: those with a bias, letters of "qkvo".
    """
    names = zip("qkvo", ("q", "k", "v", output), ("q", "k", "v", "output"), strict=True)
    return [
        entry
        for letter, theirs, own in names
        for entry in affine(disk.format(theirs), f"{ours}.{own}", bias=letter in biased)
    ]


def within(disk: str, ours: str, entries: Iterable[Entry]) -> list[Entry]:
    """The same entries with what stands before their names."""
    return [
        replace(entry, disk=f"{disk}.{entry.disk}", ours=tuple(f"{ours}.{name}" for name in entry.ours))
        for entry in entries
    ]


def numbered(count: int, disk: str, one: Collection[Entry], ours: str = "body.blocks") -> list[Entry]:
    """The entries of one layer, or whatever else is numbered on both sides, for each of `count`."""
    return [entry for i in range(count) for entry in within(f"{disk}.{i}", f"{ours}.{i}", one)]


def untied_head(tied: bool, disk: str = "lm_head.weight", fallback: str | None = None) -> list[Entry]:
    """The weight of the head over the vocabulary; a tied one is the token table and has none of its own."""
    return [] if tied else [Entry(disk, ("head.weight",), fallback=fallback)]


def to_disk(entries: Iterable[Entry], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a checkpoint under their names on disk."""
    tensors = {}
    for entry in entries:
        tensors[entry.disk] = entry.join([parameters[name].detach() for name in entry.ours])
        if entry.repeated:
            tensors |= {name: tensors[entry.disk].clone() for name in entry.copies}
    return tensors


def locate(
    entries: Iterable[Entry], parameters: Mapping[str, Tensor], disk: str
) -> list[tuple[str, slice | Tensor, bool]]:
    """Where a tensor on disk lives in ours: (parameter, rows of the upright tensor, transposed) of each piece.

    The rows are a slice, or their numbers where parts take turns head by head.
    """
    for entry in entries:
        if entry.disk == disk:
            counts = [parameters[name].shape[0] for name in entry.ours]
            if entry.heads is not None:
                rows: Sequence[slice | Tensor] = replace(entry, transposed=False).split(
                    torch.arange(sum(counts)), counts
                )
            else:
                ends = list(accumulate(counts, initial=0))
                rows = [slice(start, stop) for start, stop in pairwise(ends)]
            return [(name, place, entry.transposed) for name, place in zip(entry.ours, rows, strict=True)]
    raise UserError(f'no tensor is named "{disk}" in this family')
