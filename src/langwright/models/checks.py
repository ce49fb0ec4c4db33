"""Checks that configs share: each raises ValueError naming the field, of which `Family.parse` makes a user's error."""

from collections.abc import Collection
from typing import Any

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Names in config.json -> names in `parts/feedforward.py`."""


def check_sizes(config: Any, needed: Collection[str], optional: Collection[str] = ()) -> None:
    """Each of these fields is a whole number above 0; optional ones may be None."""
    for name in (*needed, *(name for name in optional if getattr(config, name) is not None)):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r} is not a whole number above 0")


def check_choice(config: Any, field: str, known: Collection[str] = ACTIVATIONS) -> None:
    """The field names one of these, by default an activation."""
    value = getattr(config, field)
    if value not in known:
        raise ValueError(f"{field} = {value!r} is not one of {', '.join(known)}")


def check_heads(config: Any, width: str, heads: str) -> None:
    """The heads divide the width, or heads of queries; None stands for a number that does."""
    wide, parts = getattr(config, width), getattr(config, heads)
    if parts is not None and wide % parts:
        raise ValueError(f"{width} = {wide} is not a multiple of {heads} = {parts}")


def check_layers(field: str, kinds: Collection[str] | None, known: tuple[str, str], layers: int) -> None:
    """The field names one of two kinds for each layer; None leaves them to the family."""
    if kinds is not None and (len(kinds) != layers or not set(kinds) <= set(known)):
        raise ValueError(f"{field} must name {known[0]} or {known[1]} once for each of {layers} layers")
