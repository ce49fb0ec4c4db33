"""The model folder: the Hugging Face layout plus langwright.json, opened, read and written."""

from langwright.models.folder.opened import (
    CONFIG,
    FORMAT_VERSION,
    GENERATION,
    RECORD,
    OpenedFolder,
    load_config,
    load_generative,
    load_language_model,
    load_model,
    load_one_stack,
)
from langwright.models.folder.saving import save_model, save_parameters
from langwright.models.tasks import new_model

__all__ = [
    "CONFIG",
    "FORMAT_VERSION",
    "GENERATION",
    "RECORD",
    "OpenedFolder",
    "load_config",
    "load_generative",
    "load_language_model",
    "load_model",
    "load_one_stack",
    "new_model",
    "save_model",
    "save_parameters",
]
