"""(IA)³ (Liu et al., 2022): keys, values and the inside of the feed-forward are rescaled by learned vectors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, Answer
from langwright.adaptation.attachment_points import (
    PREFIX,
    Targets,
    check_expression,
    size,
    usual,
)
from langwright.adaptation.config_fields import INERT, TARGETS, Holds, Table
from langwright.adaptation.method import Stored, TargetedMethod
from langwright.adaptation.settings import setting
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.model import Model


class Scale(AdapterModule):
    """One factor for each output of a linear layer.

    Args:
        scale: the factors.
        inputs: whether they multiply the inputs instead.
    """

    def __init__(self, scale: nn.Parameter, inputs: bool):
        super().__init__()
        self.scale, self.inputs = scale, inputs

    def forward(self, x: Tensor, owner: Any, answer: Answer) -> Tensor:
        if self.inputs:
            return answer((x * self.scale).to(x.dtype))
        y = answer(x)
        return (y * self.scale).to(y.dtype)

    def merged(self, owner: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        scale = self.scale.float()
        if self.inputs:
            return weight * scale, bias
        return weight * scale[:, None], None if bias is None else bias * scale


@dataclass(frozen=True)
class IA3(TargetedMethod):
    """A vector multiplies what each targeted layer gives, or what it is given; all begin as ones.

    Args:
        target: what is rescaled: names of modules or their endings between commas, a regular expression of whole
            names, or all-linear; the family's usual ones unless given.
        feedforward: those of the targets that are rescaled at their input; the family's usual ones unless given.
        exclude: what is not rescaled all the same.
        modules_to_save: names of modules that train whole.
    """

    peft_type: ClassVar[str] = "IA3"
    peft_fields: ClassVar[Table] = {
        **TARGETS,
        "feedforward_modules": Holds("feedforward"),
        **dict.fromkeys(("fan_in_fan_out", "init_ia3_weights"), INERT),
    }

    target: Targets | None = setting(None, option="target")
    feedforward: Targets | None = setting(None, option="feedforward")
    exclude: Targets = ()
    modules_to_save: tuple[str, ...] = ()

    def usual(self, model: Model) -> Targets:
        row = usual(model)
        if not row.ia3:
            raise UserError(f"{model.family} has no usual targets of IA3; name them with --target and --feedforward")
        return (*row.ia3, *row.ia3_inputs)

    def _inputs(self, model: Model) -> Targets:
        if isinstance(self.feedforward, str):
            check_expression(self.feedforward)
        return usual(model).ia3_inputs if self.feedforward is None else self.feedforward

    def rate(self, parameter: str) -> float:
        return 10.0  # as published: 5e-3 where LoRA takes 2e-4 to 5e-4

    def modules(self, model: Model) -> dict[str, AdapterModule]:
        made: dict[str, AdapterModule] = {}
        for target in self.targets(model):
            name, wanted = target.point.name, self._inputs(model)
            inputs = bool(re.fullmatch(wanted, name)) if isinstance(wanted, str) else name.endswith(tuple(wanted))
            shared: nn.Parameter | None = None
            for path in target.ours:
                if shared is None or not inputs:  # a fused layer has one input
                    weight: Tensor = model.get_submodule(path).full_weight()  # type: ignore[operator]
                    shared = nn.Parameter(torch.ones(weight.shape[1 if inputs else 0], device=weight.device))
                made[path] = Scale(shared, inputs)
        return made

    def stored(self, model: Model, modules: Mapping[str, Any]) -> list[Stored]:
        found = []
        for target in self.targets(model):
            key, parts = f"{PREFIX}{target.point.name}.ia3_l", {i: modules[path] for path, i in target.ours.items()}
            first = next(iter(parts.values()))
            if first.inputs:  # a row in the file
                found.append(Stored.of(key, first.scale[None]))
            else:  # a column, with ones for slices that are not targeted
                empty = [torch.ones(size(model, path)[0], 1) for path in target.point.ours]
                scales = {i: (part.scale, lambda piece: piece[:, 0]) for i, part in parts.items()}
                found.append(Stored.fused(key, target.point, empty, scales))
        return found

    def in_peft(self, model: Model) -> "IA3":
        return replace(super().in_peft(model), feedforward=self._inputs(model))

    def facts(self, model: Model) -> Fields:
        return super().facts(model) | {"init_ia3_weights": True}
