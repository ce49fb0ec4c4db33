"""The tensors of a GGUF file and those of a model folder: which is which, and how the numbers lie."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.extras import need
from langwright.base.gguf import GGUF, is_gguf, read_gguf
from langwright.models import tasks, weights
from langwright.models.family import Family
from langwright.models.gguf.blocks import unpack
from langwright.models.gguf.describing import FREQUENCIES, config_fields, family_of, layout_of
from langwright.models.gguf.layout import Layout
from langwright.models.keymap import Entry
from langwright.models.weights import Weights

HEAD, TOKENS = "output.weight", "token_embd.weight"
_EXPERT = re.compile(r"(?<=experts\.)(\d+)\.")
_TURNED = re.compile(r"\.attn_[qk]\.(weight|bias)$")


class Place(NamedTuple):
    """Where a tensor of a folder lies in a file.

    Args:
        entry: the tensor of the folder.
        name: the tensor of the file.
        expert: which part of that it is, where one tensor holds all experts.
    """

    entry: Entry
    name: str
    expert: int | None = None

    def join(self, parameters: Sequence[Tensor], layout: Layout, head_width: int) -> Tensor:
        """The numbers in the file: upright, one parameter after the other."""
        return _moved(self._plain.join(list(parameters)), self.name, layout, head_width, to_file=True)

    def split(self, stored: Tensor, rows: Sequence[int], layout: Layout, head_width: int) -> list[Tensor]:
        """Our parameters out of the numbers in the file."""
        return self._plain.split(_moved(stored, self.name, layout, head_width, to_file=False), rows)

    @property
    def _plain(self) -> Entry:
        return replace(self.entry, transposed=False, heads=None)


def places(family: Family, config: Any) -> list[Place]:
    """Where each tensor of a folder of the family lies."""
    layout = layout_of(family)
    gguf: Any = need("gguf", "export", "GGUF")
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == layout.architecture)
    names = gguf.get_tensor_name_map(arch, getattr(config, config.shape.layers))
    found = []
    for entry in tasks.entries(family, config, family.task):
        expert = _EXPERT.search(entry.disk)
        disk = _EXPERT.sub("", entry.disk)
        spellings = (disk, disk.removeprefix(family.prefix))
        name = next((n for one in spellings if (n := names.get_name(one, (".weight", ".bias")))), None)
        assert name is not None, f"gguf-py has no name for {entry.disk} of {layout.architecture}"
        found.append(Place(entry, name, None if expert is None else int(expert[1])))
    return found


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two tables differ by more than 4 bits a number explain."""
    return float((one.float() - other.float()).norm()) > 0.2 * float(one.float().norm())


def _moved(tensor: Tensor, name: str, layout: Layout, head_width: int, to_file: bool) -> Tensor:
    """A tensor as llama.cpp wants its numbers, or as we do."""
    if layout.pairs and _TURNED.search(name):
        sides = (2, head_width // 2) if to_file else (head_width // 2, 2)
        return tensor.unflatten(0, (-1, *sides)).transpose(1, 2).flatten(0, 2)
    if layout.plus_one and name.endswith("norm.weight"):
        return tensor.float() + (1 if to_file else -1)
    return tensor


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """The tensors of a model folder or of a GGUF file, by the names that the folder has; see `weights.open_weights`."""
    if is_gguf(path):
        yield stored_weights(read_gguf(path))
    else:
        with weights.open_weights(path) as opened:
            yield opened


def each_tensor(path: Path, most: int = 1 << 26) -> Iterator[tuple[str, Tensor, str]]:
    """The name, the numbers and the place of each tensor. Of what was read about so many bytes stay in memory."""
    names: list[str] | None = None
    while names is None or names:
        with open_weights(path) as opened:
            names, read = list(opened.files) if names is None else names, 0
            while names and read < most:
                name = names.pop(0)
                tensor = opened.read(name)
                read += tensor.nbytes
                yield name, tensor, opened.where(name)
                del tensor


def stored_weights(file: GGUF) -> Weights:
    """The tensors of a file by the names that they have in a folder.

    Raises:
        UserError: one is missing, not known, or has another shape than the fields say; nothing was allocated yet.
    """
    family = family_of(file)
    layout, config = layout_of(family), family.parse(config_fields(file), str(file.path))
    known = {place.entry.disk: place for place in places(family, config)}
    left = set(file.tensors) - {place.name for place in known.values()} - {FREQUENCIES}
    copy = f"{family.tied_head}.weight"
    if HEAD in left and file.tensors[HEAD].kind == file.tensors[TOKENS].kind:
        left.remove(HEAD)  # a head that repeats the token table, which is compared with it where both are read
        known[copy] = Place(Entry(copy, ("head.weight",)), HEAD)
    elif HEAD in left:  # the same table rounded otherwise: the finer one is both
        left.remove(HEAD)
        tables = [file.tensors[name] for name in (TOKENS, HEAD)]
        numbers = (unpack(torch.from_numpy(one.data), one.kind.name) for one in tables)
        if tables[0].shape != tables[1].shape or _differ(*numbers):
            raise UserError(f'{file.path}: tensor "{HEAD}" is not the token table, which it is in every {family.name}')
        finer = max((TOKENS, HEAD), key=lambda name: file.tensors[name].kind.size / file.tensors[name].kind.block)
        known = {disk: place._replace(name=finer) if place.name == TOKENS else place for disk, place in known.items()}
    if left:
        raise UserError(f'{file.path}: tensor "{min(left)}" is not known for {family.name}')
    with torch.device("meta"):
        meta = dict(family.build(config).named_parameters())
    meta["head.weight"] = meta["body.embed.tokens"]
    experts = Counter(place.name for place in known.values() if place.expert is not None)
    for place in known.values():
        if place.name not in file.tensors:
            raise UserError(f'{file.path}: tensor "{place.name}" is missing')
        one = place.join([meta[own] for own in place.entry.ours], layout, config.head_width).shape
        due = (*one,) if place.expert is None else (experts[place.name], *one)
        if file.tensors[place.name].shape != due:
            found = list(file.tensors[place.name].shape)
            raise UserError(f'{file.path}: tensor "{place.name}" has shape {found}, the fields ask for {list(due)}')

    def read(name: str) -> Tensor:
        place = known[name]
        stored = file.tensors[place.name]
        data, shape = torch.from_numpy(stored.data), stored.shape
        if place.expert is not None:
            part = data.shape[0] // shape[0]
            data, shape = data[place.expert * part :][:part], shape[1:]
        rows = [meta[own].shape[0] for own in place.entry.ours]
        tensor = unpack(data, stored.kind.name).reshape(shape)
        return place.entry.join(place.split(tensor, rows, layout, config.head_width))

    return Weights(dict.fromkeys(known, file.path), read)
