"""How a family's parameters are named and laid out on disk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.base.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One tensor on disk and the parameters of ours that it holds.

    disk: its name there. ours: our parameters, joined along the rows (one for a plain copy).
    transposed: the disk holds [inputs, outputs] (the Conv1D of GPT-2).
    copies: other names under which files hold the same tensor, beside this one or in its place.
    fallback: a tensor that stands for it in files without it. zero_if_missing: files without it mean zeros.
    """

    disk: str
    ours: tuple[str, ...]
    transposed: bool = False
    copies: tuple[str, ...] = ()
    fallback: str | None = None
    zero_if_missing: bool = False

    def split(self, tensor: Tensor, rows: Iterable[int]) -> list[Tensor]:
        """Our parameters out of the disk's tensor; `rows` are the first sizes of each."""
        upright = tensor.t() if self.transposed else tensor
        return list(upright.split(list(rows)))

    def shape(self, ours: Sequence[torch.Size]) -> list[int]:
        """The shape of the disk's tensor."""
        upright = [sum(shape[0] for shape in ours), *ours[0][1:]]
        return upright[::-1] if self.transposed else upright

    def join(self, tensors: list[Tensor]) -> Tensor:
        """The disk's tensor out of our parameters."""
        joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return (joined.t() if self.transposed else joined).contiguous()


def to_disk(entries: Iterable[Entry], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a checkpoint under their names on disk."""
    return {entry.disk: entry.join([parameters[name].detach() for name in entry.ours]) for entry in entries}


def locate(entries: Iterable[Entry], parameters: Mapping[str, Tensor], disk: str) -> list[tuple[str, slice, bool]]:
    """Where a tensor on disk lives in ours: (parameter, rows of the upright tensor, transposed) of each piece."""
    for entry in entries:
        if entry.disk == disk:
            places, start = [], 0
            for name in entry.ours:
                stop = start + parameters[name].shape[0]
                places.append((name, slice(start, stop), entry.transposed))
                start = stop
            return places
    raise UserError(f'no tensor is named "{disk}" in this family')
