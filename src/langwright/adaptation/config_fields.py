"""The fields of `adapter_config.json` as tables, read and written in one way for every method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from langwright.base.errors import UserError
from langwright.base.value_types import fits, spelt
from langwright.models.family import Fields


def _plain(value: Any) -> Any:
    """A setting as JSON has it; what is empty is null."""
    return list(value) or None if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Holds:
    """A field that holds a setting.

    Args:
        setting: the name of the setting.
        missing: the setting that a file without the field means; None for the setting's own default.
        kind: the type of the field; the setting's unless given.
        words: the values of the field and the settings they mean, where they differ.
        closed: whether `words` are all values of the field.
        write: turns the setting into the field.
    """

    setting: str
    missing: Any = None
    kind: Any = None
    words: Mapping[Any, Any] | None = None
    closed: bool = True
    write: Callable[[Any], Any] = _plain


@dataclass(frozen=True)
class Only:
    """A field that is understood at one value, or at one that means the same. written: whether files hold it."""

    value: Any
    written: bool = False


class Inert:
    """A field that changes nothing here."""


INERT = Inert()
Table = Mapping[str, Holds | Only | Inert]
TARGETS: Table = {
    "target_modules": Holds("target"),
    "exclude_modules": Holds("exclude"),
    "modules_to_save": Holds("modules_to_save"),
}
"""Fields of methods that act on named modules."""
COMMON = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
)
"""Fields of every method, which `adaptation/folder.py` reads and writes."""


def read_fields(given: Fields, table: Table, method: type, where: str) -> dict[str, Any]:
    """The settings of a method in a config.

    Args:
        given: the fields of the file; null is the same as a missing field.
        table: the fields of the method.
        method: the dataclass of the settings.
        where: the file, for errors.

    Raises:
        UserError: naming a field that is unknown, not supported at its value, or of the wrong type.
    """
    kinds, settings = get_type_hints(method), {}
    given = {name: value for name, value in given.items() if value is not None and name not in COMMON}
    for name, value in given.items():
        row = table.get(name)
        if isinstance(row, Only):
            if value != row.value and (value or row.value):
                raise UserError(f"{where}: {name} = {value!r} is not supported, only {row.value!r}")
        elif row is None and value:
            raise UserError(f'{where}: field "{name}" = {value!r} of the adapter is not known')
    for name, row in table.items():
        if not isinstance(row, Holds):
            continue
        if name in given:
            settings[row.setting] = _read(name, given[name], row, kinds[row.setting], where)
        elif row.missing is not None:
            settings[row.setting] = row.missing
    return settings


def _read(name: str, value: Any, row: Holds, kind: Any, where: str) -> Any:
    if row.words is None or not row.closed:
        check_type(name, value, row.kind or kind, where)
    if row.words is not None:
        known = next((found for word, found in row.words.items() if word == value and type(word) is type(value)), None)
        if known is None and row.closed:
            raise UserError(f"{where}: {name} = {value!r} is none of {', '.join(map(repr, row.words))}")
        return value if known is None else known
    value = tuple(value) if isinstance(value, list) else value
    return value if fits(value, kind) else (value,)  # one layer, or one name, where several may be


def write_fields(settings: Any, table: Table) -> Fields:
    """The fields of a config that hold a method's settings."""
    fields: Fields = {}
    for name, row in table.items():
        if isinstance(row, Holds):
            value = getattr(settings, row.setting)
            words = {found: word for word, found in reversed(list((row.words or {}).items()))}
            fields[name] = words[value] if row.words is not None and value in words else row.write(value)
        elif isinstance(row, Only) and row.written:
            fields[name] = row.value
    return fields


def check_type(name: str, value: Any, kind: Any, where: str) -> None:
    """UserError for a field whose value is not of its type."""
    if not fits(value, kind):
        raise UserError(f"{where}: {name} = {value!r} must be {spelt(kind)}")
