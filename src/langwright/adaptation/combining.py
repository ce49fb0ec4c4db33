"""Several LoRAs made into one, as PEFT's `add_weighted_adapter` does."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from langwright.adaptation.attached import attached
from langwright.adaptation.attachment_points import PREFIX
from langwright.adaptation.methods.lora import LoRA
from langwright.base.errors import UserError
from langwright.models.model import Model

How = Literal["linear", "cat", "svd"]


@torch.no_grad()
def combine(model: Model, weights: Mapping[str, float], name: str, how: How = "svd", rank: int | None = None) -> LoRA:
    """Make a new adapter, chosen, whose change is about the weighted sum of the changes of others.

    Args:
        model: the model.
        weights: the weight of each adapter, by its name.
        name: of the new adapter.
        how: "cat" puts their A and B side by side, which is exact, at the sum of their ranks; "svd" keeps the largest
            singular values of the summed change, which gives the nearest matrix of their number as rank; "linear" adds
            A to A and B to B, which costs nothing and is rough.
        rank: of the change for "svd"; the largest rank among the adapters unless given.

    Returns:
        The settings of the new adapter.

    Raises:
        UserError: for adapters that are no LoRA, are DoRA, or have values of their own for the model's parameters.
    """
    changes: dict[str, dict[tuple[str, str], tuple[Tensor, Tensor]]] = {}
    for other in weights:
        adapter = attached(model).adapters.get(other)
        method = None if adapter is None or adapter.values else adapter.settings
        if not isinstance(method, LoRA) or method.dora:
            raise UserError(f'"{other}" is no LoRA here without DoRA, biases and whole modules, and so is not combined')
        changes[other] = _changes(method.tensors(model, other), method)
    ranks = [max(len(down) for down, _ in found.values()) for found in changes.values()]
    if how == "linear" and len(set(ranks)) > 1:
        raise UserError(f"linear needs adapters of one rank, not {sorted(set(ranks))}; cat and svd do not")
    width = {"cat": sum(ranks), "linear": max(ranks), "svd": rank or max(ranks)}[how]
    keys = list(dict.fromkeys(key for found in changes.values() for key in found))
    tensors: dict[str, Tensor] = {}
    for module, kind in keys:
        given = [(weights[other], *found[module, kind]) for other, found in changes.items() if (module, kind) in found]
        down, up = _combined(how, given, width)
        short = width - len(down)
        tensors[f"{module}.lora_{kind}"] = F.pad(down, (0, 0, 0, short))
        tensors[f"{module}.lora_{kind.replace('A', 'B')}"] = F.pad(up, (0, short))
    made = LoRA(width, float(width), target=tuple(module.removeprefix(PREFIX) for module, _ in keys))
    made.attach(model, name)
    made.load(model, name, tensors)
    return made


def _changes(tensors: Mapping[str, Tensor], method: LoRA) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """A and B by module and what A is called there, half of the scaling in either."""
    found = {}
    for key, down in tensors.items():
        module, _, kind = key.partition(".lora_")
        if "A" in kind:
            half = method.scaling(module.removeprefix(PREFIX)) ** 0.5
            found[module, kind] = half * down, half * tensors[f"{module}.lora_{kind.replace('A', 'B')}"]
    return found


def _combined(how: How, given: list[tuple[float, Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor]:
    """A and B out of the weight, A and B of each adapter at one module."""
    if how == "linear":  # the root of a weight goes to A and to B, its sign to A
        roots = [(abs(w) ** 0.5, 1 if w >= 0 else -1, a, b) for w, a, b in given]
        downs, ups = [root * sign * a for root, sign, a, _ in roots], [root * b for root, _, _, b in roots]
        return torch.stack(downs).sum(0), torch.stack(ups).sum(0)
    if how == "cat":
        return torch.cat([w * a for w, a, _ in given]), torch.cat([b for _, _, b in given], 1)
    left, values, right = torch.linalg.svd(torch.stack([w * b @ a for w, a, b in given]).sum(0), full_matrices=False)
    return right[:width], left[:, :width] * values[:width]
