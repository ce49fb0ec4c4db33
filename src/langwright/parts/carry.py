"""Memory whose size does not grow with the text: what recurrent and convolutional layers keep between calls."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.parts.attention import Context
from langwright.parts.bias import EVERY_SEGMENT, Places
from langwright.parts.kernels import Stateless
from langwright.parts.state import NewTokens

Memory = Float[Tensor, "batch *size"]
Hidden = Float[Tensor, "batch time dim"]
Given = Float[Tensor, "batch time width"]
PADDING = -2
"""Stands for the text of columns that hold padding."""


class Carry:
    """The slot of a layer whose memory is one tensor with a row a text."""

    def __init__(self) -> None:
        self._memory: Memory | None = None

    def read(self) -> Memory | None:
        """What the calls before left; None before the first."""
        return self._memory

    def write(self, memory: Memory) -> None:
        """Keep what this call leaves."""
        self._memory = memory


class CarriedState:
    """The state of one pass in training whose rows go on where those of the pass before stopped.

    This is truncated back-propagation through time (Williams and Peng, 1990): the memory is carried, gradients are not.
    It implements `parts.state.State`. What a pass leaves is kept apart from what it began with, so that a layer that is
    computed again, or a batch that is looked at again, begins with the same memory.

    As a field of a batch it is cut into rows and moved as tensors are; the parts share what they leave.

    Args:
        before: the memory of each layer; empty at the beginning of the texts.
    """

    length = 0

    def __init__(self, before: Mapping[int, Tensor] = {}):
        self._before, self._first = dict(before), 0
        self._left: dict[int, dict[int, Tensor]] = {}

    def begin(self, new: NewTokens) -> Places:
        """Where the tokens stand in their window."""
        return Stateless().begin(new)

    def slot(self, layer: int) -> "CarriedSlot":
        """The memory of a layer."""
        return CarriedSlot(self._before.get(layer), self._left.setdefault(layer, {}), self._first)

    def to(self, device: torch.device | str) -> "CarriedState":
        """The same on another device."""
        return self._part({layer: memory.to(device) for layer, memory in self._before.items()}, self._first)

    def __getitem__(self, rows: slice) -> "CarriedState":
        """Some rows, from their first one on."""
        first = self._first + (rows.start or 0)
        return self._part({layer: memory[rows] for layer, memory in self._before.items()}, first)

    def _part(self, before: Mapping[int, Tensor], first: int) -> "CarriedState":
        part = CarriedState(before)
        part._first, part._left = first, self._left
        return part

    def after(self) -> dict[int, Tensor]:
        """The memory that the passes left, by layer; before any, that which they begin with.

        Numbers that are not finite, of a step that failed, are zeros.
        """
        if not any(self._left.values()):
            return dict(self._before)
        parts = {layer: torch.cat([left[row] for row in sorted(left)]) for layer, left in self._left.items()}
        return {layer: memory.nan_to_num(0.0, 0.0, 0.0) for layer, memory in parts.items()}


class CarriedSlot:
    """The memory of one layer in a pass of `CarriedState`."""

    def __init__(self, before: Memory | None, left: dict[int, Tensor], first: int):
        self._before, self._left, self._first = before, left, first

    def read(self) -> Memory | None:
        """What the pass before left."""
        return self._before

    def write(self, memory: Memory) -> None:
        """Keep what this pass leaves; computed again, it replaces the first."""
        self._left[self._first] = memory.detach()


def read_texts(
    x: Hidden, context: Context, fresh: Memory, step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Given:
    """Apply a layer with a memory to rows of texts, from left to right.

    Padding leaves the memory as it is. Where a row packs several texts, each begins with the memory of an empty text,
    or with that of the virtual tokens before all of them. Between calls the memory is that of the last text of a row;
    segment 0 goes on with it.

    Args:
        x: what the layer reads.
        context: whose slot has the memory.
        fresh: the memory of an empty text.
        step: (hidden states, memory before them) -> (what the layer gives, memory after them).
    """
    keeps = not isinstance(context.slot, Stateless)
    slot = context.slot if keeps else Carry()
    held = slot.read()
    memory = fresh if held is None else held.to(fresh.dtype)
    texts = _texts(x, context, keeps)
    if texts is None:
        y, memory = step(x, memory)
    else:
        y, memory = _read_pieces(x, texts, memory, fresh, step)
    slot.write(memory)
    return y


def _read_pieces(
    x: Hidden, texts: Int[Tensor, "batch time"], memory: Memory, origin: Memory, step: Any
) -> tuple[Given, Memory]:
    """Cut the columns where a row changes from text to text, or to padding: the kernel sees whole pieces."""
    bounds = (texts[:, 1:] != texts[:, :-1]).any(0).nonzero()[:, 0] + 1
    current = torch.zeros_like(texts[:, 0])
    given = []
    for start, stop in pairwise([0, *bounds.tolist(), x.shape[1]]):
        here = texts[:, start]
        real, shared = here != PADDING, here == EVERY_SEGMENT
        memory = _choose(real & ~shared & (here != current), origin, memory)
        y, left = step(x[:, start:stop], memory)
        memory = _choose(real, left, memory)
        origin = _choose(shared, memory, origin)
        current = torch.where(real & ~shared, here, current)
        given.append(y)
    return torch.cat(given, 1), memory


def _texts(x: Hidden, context: Context, keeps: bool) -> Int[Tensor, "batch time"] | None:
    """The text that each column of a row belongs to, or `PADDING`; None where all belong to segment 0."""
    real, texts = context.real, context.segments
    if (real is None and texts is None) or x.is_meta:  # tensors without values do not tell
        return None
    if texts is None:
        texts = x.new_zeros(x.shape[:2], dtype=torch.long)
    if real is None:
        return texts
    if not keeps:  # what comes after the last real token of a row then disturbs nothing
        real = real | (real.flip(1).long().cumsum(1).flip(1) == 0)
    return texts.masked_fill(~real, PADDING)


def _choose(rows: Bool[Tensor, " batch"], yes: Memory, no: Memory) -> Memory:
    return torch.where(rows.view(-1, *[1] * (no.ndim - 1)), yes, no)
