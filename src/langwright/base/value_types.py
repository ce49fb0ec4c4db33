"""Types of values out of JSON files, recipes and command lines: whether a value is of one, and its words."""

import json
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from langwright.base.errors import UserError, suggest


class Rule(NamedTuple):
    """What a value must be besides its type, as in `Annotated[int, Rule("a whole number above 0", lambda n: n > 0)]`.

    words: in a message, with the type. holds: whether a value of the type is so.
    """

    words: str
    holds: Callable[[Any], bool]


def one_of(known: Collection[str]) -> Rule:
    """The rule of a text that names one of these."""
    return Rule(f"one of {', '.join(known)}", known.__contains__)


def check_types(fields: Mapping[str, Any], types: Mapping[str, Any], inside: str = "") -> None:
    """Each field that has a type in the table is of it, and no number too large or NaN; ValueError that names it.

    Args:
        fields: the fields of a JSON file, or of an object in one.
        types: the type of each field, as an annotation.
        inside: what stands before a field's name in the message.
    """
    for name, value in fields.items():
        odd = isinstance(value, int | float) and not abs(value) < 2**63
        if name in types and (odd or not fits(value, types[name])):
            raise ValueError(f"{inside}{name} = {value!r} must be {spelt(types[name])}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type as an annotation spells it; a list serves as a tuple, an integer as a number."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fits(value, parts[0]) and parts[1].holds(value)
    if kind is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (Mapping, dict):
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(item, parts[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def from_texts(kind: Any, texts: Sequence[str], where: str) -> Any:
    """As cyclopts converts texts, but 1.5 is no integer, nothing no path, and null is None where it cannot be text."""
    import cyclopts

    parts = leaves(kind)
    if type(None) in parts and str not in parts and list(texts) == ["null"]:
        return None
    rounded = int in parts and float not in parts and "." in "".join(texts)
    try:
        if not rounded and not (Path in parts and "" in texts):
            return cyclopts.convert(kind, texts)
    except (ValueError, cyclopts.CycloptsError):
        pass
    shown = json.dumps(texts[0] if len(texts) == 1 else texts, ensure_ascii=False)
    near = suggest("".join(texts), [part for part in parts if isinstance(part, str)])
    raise UserError(f"{where}: expected {spelt(kind)}, got {shown}{near}")


def leaves(kind: Any) -> list[Any]:
    """The types and values that a type is made of: `int` and `NoneType` of `int | None`."""
    return [leaf for part in get_args(kind) for leaf in leaves(part)] or [kind]


def spelt(kind: Any) -> str:
    """A type in a person's words."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return str(parts[1].words)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(spelt(part) for part in parts)
    if origin is Literal:
        return " or ".join(filter(None, [", ".join(f'"{part}"' for part in parts[:-1]), f'"{parts[-1]}"']))
    if origin in (Mapping, dict):
        return "an object" if parts[1] is Any else f"an object, each value {spelt(parts[1])}"
    return f"a list, each value {spelt(parts[0])}" if origin in (tuple, list) else str(kind)


_WORDS: Mapping[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    types.NoneType: "null",
}
