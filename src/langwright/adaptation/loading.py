"""A model folder with an adapter over it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from langwright.adaptation.folder import load_adapter
from langwright.base.hub import model_folder
from langwright.models import folder as models
from langwright.models.model import Model

AnyModel = TypeVar("AnyModel", bound=Model)


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignore_fields: Collection[str] = (),
    head: str | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    adapter: Path | str | None = None,
    bits: int | str | None = None,
) -> Model:
    """As `models.folder.load_model`; adapter: a folder of an adapter, ours or PEFT's, that is put on the model."""
    return adapted(models.load_model(folder, device, dtype, ignore_fields, head, labels, seed, bits), adapter, folder)


def adapted(model: AnyModel, adapter: Path | str | None, base: Path | str) -> AnyModel:
    """A model just loaded from the folder `base`, in eval mode, with an adapter on it where there is one."""
    if adapter is not None:
        load_adapter(model, adapter, base=model_folder(base))
    model.eval()
    return model


def tokenizer_folder(model: Path, adapter: Path | None) -> Path:
    """Where the tokenizer of a model is: with an adapter that came with one of its own, which may have more tokens."""
    return model if adapter is None or not (adapter / "tokenizer_config.json").exists() else adapter
