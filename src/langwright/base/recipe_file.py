"""A recipe as a flat YAML file."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from langwright.base.errors import UserError, suggest
from langwright.base.files import read_text
from langwright.base.value_types import fits, from_texts, leaves, spelt


def read_recipe(path: Path, cls: type) -> dict[str, Any]:
    """The fields of the dataclass `cls` that a flat YAML file sets, converted to their types.

    Raises:
        UserError: Names the file for what is missing, broken, unknown, double or of the wrong type.
    """
    kinds = {name: typing.get_type_hints(cls)[name] for name in (f.name for f in dataclasses.fields(cls) if f.init)}
    settings: dict[str, Any] = {}
    for key, value in _yaml_items(path):
        name = str(key).replace("-", "_")
        if name not in kinds:
            raise UserError(f'{path}: unknown key "{key}"{suggest(name, kinds)}')
        if name in settings:
            raise UserError(f'{path}: the key "{key}" is given twice')
        settings[name] = _from_yaml(kinds[name], value, f"{path}: {key}")
    return settings


def _from_yaml(kind: Any, value: Any, where: str) -> Any:
    """A value of a YAML file as its option's type."""
    parts = leaves(kind)
    if isinstance(value, str) and str not in parts:
        return from_texts(kind, [value], where)  # 1e-3 is text to YAML, and so is every path
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value) if str in parts else float(value) if float in parts else value
    if not fits(value, kind):
        raise UserError(f"{where}: expected {spelt(kind)}, got {json.dumps(value, ensure_ascii=False, default=str)}")
    return tuple(value) if isinstance(value, list) else value


def _yaml_items(path: Path) -> list[tuple[Any, Any]]:
    """The pairs of a flat YAML file, doubles kept."""
    import yaml

    text = read_text(path, "the recipe")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f'{path}:{node.start_mark.line + 1}: expected lines of the form "key: value"')
        build = yaml.SafeLoader("").construct_object
        return [(build(key, deep=True), build(value, deep=True)) for key, value in node.value]
    except (ValueError, RecursionError) as error:  # dates and numbers that Python cannot hold, lists without end
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{f':{mark.line + 1}' if mark else ''}: not valid YAML: {reason}") from None
