"""What a run may begin with: a model folder, or nothing but a shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from langwright.models.family import Family
from langwright.models.model import Model
from langwright.models.tasks import new_model


@runtime_checkable
class Origin(Protocol):
    """What models are made from: an opened folder, or a shape.

    Attributes:
        path: the folder, or what the user calls the shape.
        family: the row of the table of families.
        config: its config.
    """

    path: Path
    family: Family
    config: Any

    def model(
        self, *, head: str | None = None, labels: Sequence[str] | None = None, seed: int = 0, bits: Any = None
    ) -> Model:
        """The model in eval mode; see `OpenedFolder.model`."""


@dataclass
class Untrained:
    """A model that is nothing but a shape as yet; see `Origin`. rate: see `Family.rate`."""

    path: Path
    family: Family
    config: Any
    rate: float

    def model(
        self, *, head: str | None = None, labels: Sequence[str] | None = None, seed: int = 0, bits: None = None
    ) -> Model:
        """A new model; `bits` is for those that exist."""
        return new_model(self.family.name, self.config, seed, head, labels or ()).eval()
