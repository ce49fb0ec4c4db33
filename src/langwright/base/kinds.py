"""Whether a value out of a JSON file is of the type that a field has."""

import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type as an annotation spells it; a list serves as a tuple, an integer as a number."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is Mapping:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(item, parts[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def spelt(kind: Any) -> str:
    """A type in a person's words."""
    parts = get_args(kind)
    if get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(spelt(part) for part in parts)
    if get_origin(kind) is Literal:
        return " or ".join(f'"{part}"' for part in parts)
    if get_origin(kind) is Mapping:
        return f"an object of values that are each {spelt(parts[1])}"
    if get_origin(kind) is tuple:
        return f"a list of values that are each {spelt(parts[0])}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}[kind]
