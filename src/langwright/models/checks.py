"""Checks that configs share: each raises ValueError naming the field, of which `Family.parse` makes a user's error."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from langwright.base.value_types import fits, spelt

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Names in config.json -> names in `parts/feedforward.py`."""


def check_types(fields: Mapping[str, Any], types: Mapping[str, Any], inside: str = "") -> None:
    """Each field that has a type in the table is of it, and no number is infinite or NaN.

    Args:
        fields: the fields of a JSON file, or of an object in one.
        types: the type of each field, as an annotation.
        inside: what stands before a field's name in the message.
    """
    for name, value in fields.items():
        odd = isinstance(value, float) and not math.isfinite(value)
        if name in types and (odd or not fits(value, types[name])):
            raise ValueError(f"{inside}{name} = {value!r} must be {spelt(types[name])}")


def check_sizes(config: Any, needed: Collection[str], optional: Collection[str] = ()) -> None:
    """Each of these fields is a whole number above 0; optional ones may be None."""
    for name in (*needed, *(name for name in optional if getattr(config, name) is not None)):
        value = getattr(config, name)
        if value < 1:
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
