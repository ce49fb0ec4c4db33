"""(IA)³ (Liu et al., 2022): keys, values and the inside of the feed-forward are rescaled by learned vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, Answer
from langwright.adaptation.attachment_points import Targets, matches
from langwright.adaptation.method import Stored, TargetedMethod
from langwright.adaptation.settings import Table, holds, setting
from langwright.base.errors import UserError
from langwright.models.families import ROWS
from langwright.models.family import AdapterTargets, Fields
from langwright.models.model import Model


class Scale(AdapterModule):
    """One factor for each output of a linear layer.

    Args:
        scale: the factors, or [rows, factors] with others for each row of a batch.
        inputs: whether they multiply the inputs instead.
    """

    def __init__(self, scale: nn.Parameter, inputs: bool):
        super().__init__()
        self.scale, self.inputs = scale, inputs

    def forward(self, x: Tensor, owner: Any, answer: Answer) -> Tensor:
        if self.inputs:
            return answer((x * self._beside(x)).to(x.dtype))
        y = answer(x)
        return (y * self._beside(y)).to(y.dtype)

    def _beside(self, x: Tensor) -> Tensor:
        """The factors as they multiply x, where there are some for each of its rows."""
        return self.scale if self.scale.dim() == 1 else self.scale.view(len(x), *(1,) * (x.dim() - 2), -1)

    @classmethod
    def by_row(cls, modules: Sequence[Any], owner: Any) -> "Scale | None":
        there = [module for module in modules if module is not None]
        if len({module.inputs for module in there}) > 1:
            return None
        rows = [torch.ones_like(there[0].scale) if module is None else module.scale for module in modules]
        return cls(nn.Parameter(torch.stack(rows).detach(), requires_grad=False), there[0].inputs)

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
        **TargetedMethod.peft_fields,
        **holds(feedforward_modules="feedforward"),
        **dict.fromkeys(("fan_in_fan_out", "init_ia3_weights")),
    }

    feedforward: Targets | None = setting(None, option="feedforward")

    def usual(self, model: Model, row: AdapterTargets) -> Targets:
        if not row.ia3:
            raise UserError(f"{model.family} has no usual targets of IA3; name them with --target and --feedforward")
        return (*row.ia3, *row.ia3_inputs)

    def _inputs(self, model: Model) -> Targets:
        return ROWS[model.family].adapters.ia3_inputs if self.feedforward is None else self.feedforward

    def rate(self, parameter: str) -> float:
        return 10.0  # as published: 5e-3 where LoRA takes 2e-4 to 5e-4

    def modules(self, model: Model) -> dict[str, AdapterModule]:
        made: dict[str, AdapterModule] = {}
        wanted = self._inputs(model)
        for point in self.targets(model):
            inputs = bool(matches(wanted, point.name)) if isinstance(wanted, str) else point.name.endswith(wanted)
            sizes = dict(zip(point.modules, point.sizes(model), strict=True))
            scales = [nn.Parameter(torch.ones(sizes[path][inputs])) for path in point.chosen]
            scales = scales[:1] * len(scales) if inputs else scales  # a fused layer has one input
            made |= {path: Scale(scale, inputs) for path, scale in zip(point.chosen, scales, strict=True)}
        return made

    def stored(self, model: Model, modules: Mapping[str, Any]) -> list[Stored]:
        found = []
        for point in self.targets(model):
            key, scales = f"{point.key}.ia3_l", [modules[path].scale for path in point.chosen]
            if modules[point.chosen[0]].inputs:  # a row in the file
                found.append(Stored.of(key, scales[0][None]))
            else:  # a column, with ones for slices that are not targeted
                rest = torch.ones(sum(outputs for outputs, _ in point.sizes(model)), 1)
                found.append(Stored(key, scales, [(rows, 0) for rows in point.rows(model)], rest))
        return found

    def facts(self, model: Model) -> Fields:
        transposed = any(point.weight.transposed for point in self.targets(model))
        facts = {"feedforward_modules": self._inputs(model), "fan_in_fan_out": transposed, "init_ia3_weights": True}
        return super().facts(model) | facts
