"""A model whose blocks are in memory while they are worked on, and its embedding and heads until the first is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from langwright.base.allocator import give_back_memory
from langwright.models.folder.opened import OpenedFolder
from langwright.models.folder.reading import set_parameters
from langwright.models.gguf.tensors import open_weights
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.models.weights import Weights, check_floats


@dataclass
class Deferred:
    """The blocks of a folder's model, on disk until they are wanted, and gone when they were.

    Args:
        source: the folder.
        model: with parameters that hold nothing, in the blocks.
    """

    source: OpenedFolder
    model: Model = field(init=False)
    _names: dict[int, list[tuple[Entry, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what is not in a block, and check that all of it is there."""
        self.model = self.source.model(filler=self)

    def take(self, model: Model, entry: Entry, name: str, left: dict[str, str], weights: Weights) -> bool:
        """Leave a tensor of a block on disk (see `quantise.Filler`)."""
        if not entry.ours[0].startswith("body.blocks."):
            return False
        parameters = [model.get_parameter(one) for one in entry.ours]
        tensor = weights.floats(name, entry.shape([parameter.shape for parameter in parameters]))
        for parameter in parameters:  # one number in the shape of many: memory that was freed is used by every block
            parameter.data = torch.empty((), dtype=tensor.dtype).expand(parameter.shape)
        self._names.setdefault(int(entry.ours[0].split(".")[2]), []).append((entry, name))
        return True

    @contextmanager
    def block(self, layer: int) -> Iterator[None]:
        """Have a block in memory; UserError where a number in it is not finite.

        What makes the first block's input, and the heads, are gone then.
        """
        self.model.body.embed = nn.Module()
        for name in self.model.heads:
            self.model.set_submodule(name, nn.Module())
        with open_weights(self.source.path) as weights:
            for entry, name in self._names.get(layer, ()):
                ours = [self.model.get_parameter(one) for one in entry.ours]
                for parameter in ours:
                    parameter.data = torch.empty(parameter.shape, dtype=parameter.dtype)
                tensor = weights.read(name)
                check_floats(tensor, weights.where(name), finite=True)
                set_parameters(ours, entry.split(tensor, [p.shape[0] for p in ours]), "cpu", None)
                del tensor
        yield
        self.model.body.blocks[layer] = nn.Module()
        give_back_memory()
