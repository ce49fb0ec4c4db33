"""The settings of a method: fields of a dataclass with their ranges and their options on the command line."""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from typing import Any

import torch

from langwright.base.errors import UserError

LARGEST = 2**31 - 1
"""The largest size of a tensor that is accepted."""
Range = tuple[str, Callable[[Any], bool]]
"""The words for a range, and whether a value lies in it."""
SIZE: Range = (f"at least 1 and at most {LARGEST}", lambda value: 1 <= value <= LARGEST)
SHARE: Range = ("at least 0 and below 1", lambda value: 0 <= value < 1)
ABOVE_0: Range = ("above 0 and finite", lambda value: 0 < value < math.inf)
FINITE: Range = ("a finite number", lambda value: abs(value) <= torch.finfo(torch.float32).max)  # false for NaN


def setting(default: Any = MISSING, within: Range | None = None, option: str | None = None) -> Any:
    """A field of a method's dataclass; its help is its line in the class's docstring.

    Args:
        default: its default.
        within: the range of its values; of a mapping, the range of each of them.
        option: its name on the command line and in recipes; None for a setting of files and Python alone.
    """
    metadata = {"within": within, "option": option}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


class SettingError(UserError):
    """A setting out of its range. The message names its flag; `in_file` names a field of a file instead."""

    def __init__(self, method: Any, name: str, value: Any, wanted: str):
        self.name, self.value, self.wanted = name, value, wanted
        option = {field.name: field for field in fields(method)}[name].metadata.get("option")
        flag = name if option is None else f"--{option.replace('_', '-')}"
        super().__init__(f"{flag} {value}: must be {wanted}")

    def in_file(self, where: str, names: Mapping[str, str]) -> UserError:
        """The same error for a file that calls some settings by other names."""
        return UserError(f"{where}: {names.get(self.name, self.name)} = {self.value!r} must be {self.wanted}")


def check_ranges(method: Any) -> None:
    """SettingError for a setting outside its range."""
    for each in fields(method):
        value, within = getattr(method, each.name), each.metadata.get("within")
        if within is None or value is None:
            continue
        wanted, holds = within
        if isinstance(value, Mapping):
            odd = {key: part for key, part in value.items() if not holds(part)}
            if odd:
                raise SettingError(method, each.name, odd, f"an object of values {wanted}")
        elif not holds(value):
            raise SettingError(method, each.name, value, wanted)
