"""What every body of a request must be: JSON of bounded size whose every field is known."""

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, from_json

from langwright.base.errors import suggest
from langwright.serving.errors import RequestError

MOST_BODY, MOST_HEADERS = 4 << 20, 16 << 10
"""Bytes."""
LONGEST_TEXT = 1 << 20
"""Characters, of which tokens are found in about a second."""
Parsed = TypeVar("Parsed", bound="Body")


class Body(BaseModel):
    """A JSON object whose fields are all known."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def read(cls: type[Parsed], body: bytes) -> Parsed:
        """The fields of a body. Raises RequestError naming the one that is wrong."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            told = _nearest(error)
            where = ".".join(_path(told, body))[:200]
            code = {"extra_forbidden": "unknown_field", "json_invalid": "invalid_json"}.get(
                told["type"], "invalid_field"
            )
            what = told["msg"]
            if code == "unknown_field":
                what = f"is not supported{suggest(where, cls.model_fields if len(told['loc']) == 1 else ())}"
            raise RequestError(400, f"{where or 'the body'}: {what}", code) from None


def _nearest(error: ValidationError) -> ErrorDetails:
    """The first mistake; of a field that may be of several types, that of the type which what was given comes nearest.

    That is a type that it is of, though out of its bounds, or else one that it is of but for something inside.
    """
    every = error.errors(include_url=False, include_input=False, include_context=False)
    of_first = [one for one in every if one["loc"][:1] == every[0]["loc"][:1]]
    return max(of_first, key=lambda one: (not one["type"].endswith("_type"), len(one["loc"])))


def _path(error: ErrorDetails, body: bytes) -> Iterator[str]:
    """Where in a body a mistake is: names and places, without those of types among which pydantic has chosen."""
    value: Any = from_json(body) if error["loc"] else None
    for at, part in enumerate(error["loc"], 1):
        is_missing = error["type"] == "missing" and at == len(error["loc"])
        if is_missing or (isinstance(value, dict) and part in value):
            value = None if is_missing else value[part]
            yield str(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
            yield str(part)
