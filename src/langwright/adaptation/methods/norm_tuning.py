"""Tuning of the norms (Zhao et al., 2023): their scales and shifts train."""

from dataclasses import dataclass
from typing import ClassVar

from langwright.adaptation.attachment_points import PREFIX, Targets, points, usual
from langwright.adaptation.base_parameters import BaseTensor, saved_tensors
from langwright.adaptation.config_fields import TARGETS, Table
from langwright.adaptation.method import TargetedMethod
from langwright.adaptation.settings import setting
from langwright.models.family import Fields
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
    peft_fields: ClassVar[Table] = TARGETS
    kinds: ClassVar[tuple[str, ...]] = ("norm",)

    target: Targets | None = setting(None, option="target")
    exclude: Targets = ()
    modules_to_save: tuple[str, ...] = ()

    def usual(self, model: Model) -> Targets:
        norms = (name.rpartition(".")[2] for name, point in points(model).items() if point.kind == "norm")
        return usual(model).norms or tuple(dict.fromkeys(norms))

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        found: list[BaseTensor] = []
        for target in self.targets(model):
            key = f"{PREFIX}{target.point.name}.ln_tuning_layers"
            found.append(BaseTensor(f"{key}.weight", target.point.weight))
            if target.point.bias is not None:
                found.append(BaseTensor(f"{key}.bias", target.point.bias))
        return found + saved_tensors(model, self.modules_to_save)

    def facts(self, model: Model) -> Fields:
        return {}
