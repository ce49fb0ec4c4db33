"""What configs have in common: types of fields that say what may stand there, and one check of all of them."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any

from langwright.base.value_types import Rule, check_types, one_of

Fields = dict[str, Any]

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Names in config.json -> names in `parts/feedforward.py`."""

Size = Annotated[int, Rule("a whole number from 1 to 2**28", lambda size: 0 < size <= 2**28)]
Count = Annotated[int, Rule("a whole number from 1 to 10,000", lambda layers: 0 < layers <= 10_000)]
Rate = Annotated[float, Rule("a number of at least 0 and below 1", lambda rate: 0 <= rate < 1)]
Spread = Annotated[float, Rule("a finite number of at least 0", lambda std: 0 <= std < math.inf)]
Positive = Annotated[float, Rule("a number above 0", lambda value: value > 0)]
Activation = Annotated[str, one_of(ACTIVATIONS)]
"""Types of a config's fields. What they say is checked where a config is made."""


@dataclass(frozen=True)
class ShapeFields:
    """The fields of a config that make its shape.

    Args:
        width: of the residual stream.
        layers: how many there are; of an encoder-decoder, those of the encoder.
        heads: of attention; of an encoder-decoder, those of the encoder; None where nothing attends.
        context: the most positions; None where there is no limit.
        head_dim: the width of a head, where a config has a field for it.
        gated: whether `intermediate_size`, where there is one, is the width of a gated feed-forward.
    """

    width: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str | None = "num_attention_heads"
    context: str | None = "max_position_embeddings"
    head_dim: str = "head_dim"
    gated: bool = True


class Config:
    """The base of all configs, frozen dataclasses whose fields are the honoured ones, under their names in config.json.

    A config that cannot be built is refused when it is made: ValueError that names the field.
    `shape` says which fields make its shape.
    """

    shape = ShapeFields()

    def __post_init__(self) -> None:
        check_types(vars(self), field_types(type(self)))
        width, heads = self.shape.width, self.shape.heads
        if heads is not None and getattr(self, self.shape.head_dim, None) is None:
            self.check_multiple(width, heads)
        if heads is not None and getattr(self, "num_key_value_heads", None) is not None:
            self.check_multiple(heads, "num_key_value_heads")

    def check_multiple(self, whole: str, part: str) -> None:
        """ValueError unless the first field is a multiple of the second."""
        if getattr(self, whole) % getattr(self, part):
            raise ValueError(f"{whole} = {getattr(self, whole)} is not a multiple of {part} = {getattr(self, part)}")

    @property
    def width(self) -> int:
        """The width of the residual stream."""
        return int(getattr(self, self.shape.width))

    @property
    def head_width(self) -> int:
        """The width of a head of attention."""
        return getattr(self, self.shape.head_dim, None) or self.width // getattr(self, str(self.shape.heads))

    @property
    def context(self) -> int | None:
        """The most positions of a text; None where there is no limit."""
        return None if self.shape.context is None else getattr(self, self.shape.context)


def field_types(made: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass."""
    return {f.name: f.type for f in dataclasses.fields(made)}
