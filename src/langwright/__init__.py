"""Langwright: from raw text to a language model, on the machine you have.

The public names are imported when they are first used, so that `import langwright` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langwright.adaptation.folder import load_model
    from langwright.inference.engine import Engine
    from langwright.inference.request import Request
    from langwright.inference.sampling import Sampling
    from langwright.models.folder import save_model
    from langwright.text.opening import load_tokenizer

__version__ = "0.1.0"
__all__ = ["Engine", "Request", "Sampling", "__version__", "load_model", "load_tokenizer", "save_model"]

_HOMES = {
    "Engine": "langwright.inference.engine",
    "Request": "langwright.inference.request",
    "Sampling": "langwright.inference.sampling",
    "load_model": "langwright.adaptation.folder",
    "load_tokenizer": "langwright.text.opening",
    "save_model": "langwright.models.folder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'langwright' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
