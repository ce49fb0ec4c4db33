"""Tuning of the norms (Zhao et al., 2023): their scales and shifts train."""

from dataclasses import dataclass
from typing import ClassVar

from langwright.adaptation.attachment_points import BaseTensor, Targets, points
from langwright.adaptation.method import TargetedMethod
from langwright.models.family import AdapterTargets
from langwright.models.model import Model


@dataclass(frozen=True)
class LayerNorm(TargetedMethod):
    """Scales and shifts of the norms train.

    Args:
        target: names of norms or their endings between commas, or a regular expression; the family's usual ones
            unless given.
        exclude: norms that do not train all the same.
        modules_to_save: names of modules that train whole.
    """

    peft_type: ClassVar[str] = "LN_TUNING"
    kinds: ClassVar[tuple[str, ...]] = ("norm",)

    def usual(self, model: Model, row: AdapterTargets) -> Targets:
        norms = (name.rpartition(".")[2] for name, point in points(model).items() if point.kind == "norm")
        return row.norms or tuple(dict.fromkeys(norms))

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        found = [
            BaseTensor(f"{point.key}.ln_tuning_layers.{kind}", entry)
            for point in self.targets(model)
            for kind, entry in (("weight", point.weight), ("bias", point.bias))
            if entry is not None
        ]
        return found + super().base_tensors(model)
