"""The settings of a method: fields of a dataclass, their ranges and options, and the fields of files that hold them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

import torch

from langwright.base.errors import UserError
from langwright.base.value_types import fits, spelt
from langwright.models.family import Fields

LARGEST, FINITE = 2**31 - 1, torch.finfo(torch.float32).max
"""The largest size of a tensor that is accepted, and the largest number."""
Range = tuple[str, Callable[[Any], bool]]
"""The words for a range, and whether a value lies in it."""
RANGES: Mapping[str, Range] = {
    "size": (f"at least 1 and at most {LARGEST}", lambda value: 1 <= value <= LARGEST),
    "share": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "positive": ("above 0 and finite", lambda value: 0 < value <= FINITE),
    "finite": ("a finite number", lambda value: abs(value) <= FINITE),  # false for NaN
}


def one_of(*values: str) -> Range:
    """The range of a few texts."""
    return f"one of {', '.join(values)}", lambda value: value in values


def setting(default: Any, within: str | Range | None = None, option: str | None = None) -> Any:
    """A field of a method's dataclass; its help is its line in the class's docstring.

    Args:
        default: its default.
        within: the range of its values, or its name in `RANGES`; of a mapping, the range of each of them.
        option: its name on the command line and in recipes; None for a setting of files and Python alone.
    """
    metadata = {"within": RANGES[within] if isinstance(within, str) else within, "option": option}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


class SettingError(UserError):
    """A setting out of its range. The message names its flag; `in_file` names a field of a file instead."""

    def __init__(self, method: Any, name: str, value: Any, wanted: str):
        self.name, self.told = name, f" = {value!r} must be {wanted}"
        option = next(each.metadata.get("option") for each in fields(method) if each.name == name)
        flag = name if option is None else f"--{option.replace('_', '-')}"
        super().__init__(f"{flag} {value}: must be {wanted}")

    def in_file(self, names: Mapping[str, str]) -> str:
        """The same for a file that calls some settings by other names."""
        return names.get(self.name, self.name) + self.told


def check_ranges(method: Any) -> None:
    """SettingError for a setting outside its range."""
    for each in fields(method):
        value, within = getattr(method, each.name), each.metadata.get("within")
        if within is not None and value is not None:
            wanted, holds = within
            if not all(map(holds, value.values() if isinstance(value, Mapping) else [value])):
                raise SettingError(method, each.name, value, wanted)


def _plain(value: Any) -> Any:
    """A setting as JSON has it; what is empty is null."""
    return list(value) or None if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Holds:
    """A field that holds a setting.

    Args:
        setting: the name of the setting.
        missing: the setting that a file without the field means; None for the setting's own default.
        words: values of the field that mean other settings.
        write: turns a setting without a word into the field.
    """

    setting: str
    missing: Any = None
    words: dict[Any, Any] = field(default_factory=dict)
    write: Callable[[Any], Any] = _plain


Table = Mapping[str, Holds | None]
"""The fields of a file; None for one that changes nothing here. Others must be null, false, zero or empty."""


def holds(*names: str, **fields: str) -> Table:
    """Fields that hold settings as they are, under their own names or others: the setting's by the field's."""
    return {name: Holds(setting) for name, setting in {**dict(zip(names, names, strict=True)), **fields}.items()}


COMMON: Table = dict.fromkeys(
    ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type")
)
"""Fields of every method, which `adaptation/folder.py` reads and writes."""


def read_fields(given: Fields, table: Table, method: type) -> dict[str, Any]:
    """The settings of a method in a file.

    Args:
        given: the fields of the file; null is the same as a missing field.
        table: the fields of the method.
        method: the dataclass of the settings.

    Raises:
        UserError: naming a field that is unknown, not supported at its value, or of the wrong type.
    """
    kinds, table = get_type_hints(method), {**COMMON, **table}
    settings = {row.setting: row.missing for row in table.values() if row and row.missing is not None}
    for name, value in given.items():
        if value and name not in table:
            raise UserError(f"{name} = {value!r} of the adapter is not supported")
        row = table.get(name)
        if row is None or value is None:
            continue
        word = next((word for word in row.words if word == value), None)
        if word is None and not fits(value, kinds[row.setting]):
            raise UserError(f"{name} = {value!r} must be {spelt(kinds[row.setting])}")
        value = value if word is None else row.words[word]
        settings[row.setting] = tuple(value) if isinstance(value, list) else value
    return settings


def write_fields(settings: Any, table: Table) -> Fields:
    """The fields of a file that hold a method's settings."""
    written: Fields = {}
    for name, row in table.items():
        if row is not None:
            value = getattr(settings, row.setting)
            words = {found: word for word, found in reversed(row.words.items())}
            written[name] = words[value] if row.words and value in words else row.write(value)
    return written
