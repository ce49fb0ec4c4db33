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
_KINDS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))


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
    adapters = attached(model).adapters
    methods: dict[str, LoRA] = {}
    for other in weights:
        method = adapters[other].settings if other in adapters else None
        if not isinstance(method, LoRA):
            raise UserError(f'"{other}" is no LoRA on this model, and only these can be combined')
        if method.dora or adapters[other].values:
            raise UserError(f'"{other}" is more than a sum of B A (DoRA, biases or whole modules): not combined')
        methods[other] = method
    if not methods:
        raise UserError("there is nothing to combine")
    changes = {other: _changes(model, method, other) for other, method in methods.items()}
    ranks = {o: max(a.shape[0] for a, _ in found.values()) for o, found in changes.items()}
    if how == "linear" and len(set(ranks.values())) > 1:
        raise UserError(f"linear needs adapters of one rank, not {sorted(set(ranks.values()))}; cat and svd do not")
    width = sum(ranks.values()) if how == "cat" else max(ranks.values()) if how == "linear" or not rank else rank
    keys = list(dict.fromkeys(key for found in changes.values() for key in found))
    targets = tuple(key[0].removeprefix(PREFIX) for key in keys)
    made = LoRA(rank=width, alpha=float(width), target=targets)
    made.attach(model, name)
    tensors: dict[str, Tensor] = {}
    for module, kind in keys:
        given = [(weights[other], *found[module, kind]) for other, found in changes.items() if (module, kind) in found]
        down, up = _COMBINED[how](given, width)
        short = width - len(down)
        tensors[module + _KINDS[kind][0]] = F.pad(down, (0, 0, 0, short))
        tensors[module + _KINDS[kind][1]] = F.pad(up, (0, short))
    made.load(model, name, tensors)
    return made


Given = list[tuple[float, Tensor, Tensor]]
"""(weight, A, scaling * B) of each adapter at one module."""


def _linear(given: Given, width: int) -> tuple[Tensor, Tensor]:
    """The root of a weight goes to A and to B, its sign to A."""
    down = torch.stack([abs(w) ** 0.5 * (1 if w >= 0 else -1) * a for w, a, _ in given]).sum(0)
    return down, torch.stack([abs(w) ** 0.5 * b for w, _, b in given]).sum(0)


def _cat(given: Given, width: int) -> tuple[Tensor, Tensor]:
    return torch.cat([w * a for w, a, _ in given]), torch.cat([b for _, _, b in given], 1)


def _svd(given: Given, width: int) -> tuple[Tensor, Tensor]:
    left, values, right = torch.linalg.svd(torch.stack([w * b @ a for w, a, b in given]).sum(0), full_matrices=False)
    return right[:width], left[:, :width] * values[:width]


_COMBINED = {"linear": _linear, "cat": _cat, "svd": _svd}


def _changes(model: Model, method: LoRA, name: str) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """A and scaled B of each module, half of the scaling in either."""
    tensors = method.tensors(model, name)
    found: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
    for key, down in tensors.items():
        for kind, (a, b) in enumerate(_KINDS):
            if key.endswith(a):
                module = key.removesuffix(a)
                half = method.scaling(module.removeprefix(PREFIX)) ** 0.5
                found[module, kind] = (half * down.float(), half * tensors[module + b].float())
    return found
