"""How keys and values are kept: as they are, or in 8 bits."""

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Cache = Literal["full", "int8", "none"]
"""Keys and values of earlier tokens are kept in the dtype of the model, in 8 bits, or computed anew each time."""
Vectors = Float[Tensor, "*batch width"]
Parts = tuple[Shaped[Tensor, "..."], ...]
"""What is kept of vectors: tensors whose first dimensions are theirs."""


@runtime_checkable
class Form(Protocol):
    """What is kept of a key or a value."""

    def pack(self, x: Vectors) -> Parts:
        """What is kept."""
        ...

    def unpack(self, parts: Parts, dtype: torch.dtype) -> Vectors:
        """What is read."""
        ...

    def size(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of one vector."""
        ...


class Whole:
    """All of it."""

    def pack(self, x: Vectors) -> Parts:
        """Itself."""
        return (x,)

    def unpack(self, parts: Parts, dtype: torch.dtype) -> Vectors:
        """Itself."""
        return parts[0]

    def size(self, width: int, dtype: torch.dtype) -> int:
        """As many bytes as its dtype takes."""
        return width * dtype.itemsize


class Int8:
    """Integers from -127 to 127, and for each vector (a token, a head) the size of a step in bfloat16.

    A step is the largest number over 127. What is not finite has a step that is none, so that it is noticed.
    """

    def pack(self, x: Vectors) -> Parts:
        """Integers and steps [*batch, 1]."""
        x = x.float()
        steps = (x.abs().amax(-1, keepdim=True) / 127).bfloat16()
        codes = (x / steps.float()).nan_to_num(0, 0, 0).round_().clamp_(-127, 127)
        return codes.to(torch.int8), steps

    def unpack(self, parts: Parts, dtype: torch.dtype) -> Vectors:
        """Their products."""
        codes, steps = parts
        return (codes.float() * steps.float()).to(dtype)

    def size(self, width: int, dtype: torch.dtype) -> int:
        """A byte a number, and two of the step."""
        return width + 2


FORMS: dict[Cache, Form] = {"full": Whole(), "int8": Int8()}


def rounded(x: Vectors, cache: Cache) -> Vectors:
    """What a cache gives back of a vector."""
    form = FORMS.get(cache, FORMS["full"])
    return form.unpack(form.pack(x), x.dtype)
