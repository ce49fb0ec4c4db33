"""Gradual unfreezing (Howard and Ruder, 2018): the top of a model trains first, one layer more at a time."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Unfreezing:
    """Which parameters train at which step: a pure function of the step, so that a resumed run does the same.

    every: after so many steps the next layer joins. At first it is the last layer and what comes after it (the final
    norm, a head of its own); at the end the embeddings join, and a head that is tied to them.
    """

    every: int

    def trains(self, names: Iterable[str], step: int) -> dict[str, bool]:
        """Whether each of a model's parameters trains at a step, by name."""
        heights = {name: _height(name) for name in names}
        downwards = sorted({_ABOVE, *heights.values()}, reverse=True)
        return {name: downwards.index(height) - 1 <= step // self.every for name, height in heights.items()}

    def apply(self, model: nn.Module, step: int) -> None:
        """Let those that train at a step ask for gradients, and no others."""
        parameters = dict(model.named_parameters())
        for name, trains in self.trains(parameters, step).items():
            parameters[name].requires_grad_(trains)


_BELOW, _ABOVE = (-1, 0), (2, 0)
"""Of the embeddings, and of what comes after the last layer; between them (stack, layer)."""


def _height(name: str) -> tuple[int, int]:
    """How far from the input a parameter is: an encoder's layers are below its decoder's."""
    if found := re.match(r"(encoder|body)\.blocks\.(\d+)\.", name):
        return int(found[1] == "body"), int(found[2])
    return _ABOVE if name.startswith(("head.", "body.final_norm.")) else _BELOW
