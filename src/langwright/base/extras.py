"""Libraries that only some stages need."""

import importlib
from typing import Any

from langwright.base.errors import UserError


def need(module: str, extra: str, what: str) -> Any:
    """Import a library of one of the package's extras.

    Args:
        module: The module, such as `pyarrow.parquet`.
        extra: The extra that brings it.
        what: What needs it, such as a file; the message begins with it.

    Raises:
        UserError: The library is missing; names it and the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise UserError(f"{what}: this needs {library}; pip install 'langwright[{extra}]'") from None
