"""Tuning of the norms (Zhao et al., 2023): their scales and shifts train."""

from dataclasses import dataclass, replace
from typing import ClassVar

from langwright.adaptation.attachment_points import PREFIX, Targets, match, points, read_targets, usual
from langwright.adaptation.base_parameters import BaseTensor, saved_modules, saved_tensors
from langwright.adaptation.config_fields import TARGETS, Table
from langwright.adaptation.method import Method
from langwright.adaptation.settings import setting
from langwright.models.model import Model


@dataclass(frozen=True)
class LayerNorm(Method):
    """Scales and shifts of the norms train.

    Args:
        target: names of norms or their endings between commas, or a regular expression; the family's usual ones
            unless given.
        exclude: norms that do not train all the same.
        modules_to_save: names of modules that train whole.
    """

    peft_type: ClassVar[str] = "LN_TUNING"
    peft_fields: ClassVar[Table] = TARGETS

    target: Targets | None = setting(None, option="target", read=read_targets)
    exclude: Targets = ()
    modules_to_save: tuple[str, ...] = ()

    def _wanted(self, model: Model) -> Targets:
        norms = (name.rpartition(".")[2] for name, point in points(model).items() if point.kind == "norm")
        return (usual(model).norms or tuple(dict.fromkeys(norms))) if self.target is None else self.target

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        found: list[BaseTensor] = []
        for target in match(points(model), self._wanted(model), self.exclude, kinds=("norm",)):
            key = f"{PREFIX}{target.point.name}.ln_tuning_layers"
            found.append(BaseTensor(f"{key}.weight", target.point.weight))
            if target.point.bias is not None:
                found.append(BaseTensor(f"{key}.bias", target.point.bias))
        return found + saved_tensors(model, self.modules_to_save)

    def in_peft(self, model: Model) -> "LayerNorm":
        saved = saved_modules(model, self.modules_to_save)
        return replace(self, target=self._wanted(model), modules_to_save=saved)
