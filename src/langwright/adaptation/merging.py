"""Adapters merged into the weights, exactly undone, or left there for good; several LoRAs made into one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from langwright.adaptation.attached import attached
from langwright.adaptation.attachment_points import PREFIX, is_tied
from langwright.adaptation.methods.lora import LoRA
from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.quantised import QuantisedLinear
from langwright.parts.stack import Embedding

How = Literal["linear", "cat", "svd"]


@torch.no_grad()
def merge(model: Model, *names: str, ids: Int[Tensor, "batch time"] | None = None) -> float | None:
    """Merge adapters into the weights of a model, in float32.

    The weights as they were are kept, so that `unmerge` restores them bit by bit.

    Args:
        model: the model.
        names: the adapters; those that are chosen, unless given.
        ids: what the change of the logits is measured on.

    Returns:
        The largest change of a logit; None without ids.

    Raises:
        UserError: where a method changes more than weights, where a weight is quantised (`dequantise` of
            `models.surgery.quantise` makes it a float), or where the token table is the head, only one of them is
            adapted, and the family ties both.
    """
    on = attached(model)
    on.choose(names or on.chosen)
    names = on.chosen
    if not names:
        raise UserError("there is no adapter to merge on this model")
    before = None if ids is None else _logits(model, ids)
    values: dict[str, nn.Parameter] = {}
    for path in {path: None for name in names for path in on.adapters[name].modules}:
        values |= _merged(model, path, names)
    on.place(())
    tied, config = is_tied(model), model.config
    on.place(names, values)
    if tied and not is_tied(model):
        if model.encoders or not hasattr(config, "tie_word_embeddings"):
            on.place(names)
            raise UserError(
                f"the token table or the head is adapted, and they are one: {model.family} cannot hold the two apart, "
                "so the adapter cannot be merged"
            )
        model.config = replace(model.config, tie_word_embeddings=False)
    on.chosen, on.merged = (), (names, config)
    return None if before is None or ids is None else float((_logits(model, ids) - before).abs().max())


def unmerge(model: Model) -> None:
    """Give a model the weights back that it had before `merge`, bit by bit, and choose what was merged."""
    names, model.config = _merged_names(model)
    attached(model).merged = None
    attached(model).choose(names)


def settle(model: Model) -> None:
    """Leave merged weights as they are for good: nothing is attached to the model any more."""
    _merged_names(model)
    attached(model).end()


def _merged_names(model: Model) -> tuple[tuple[str, ...], Any]:
    """What is merged, and the config before."""
    found = attached(model).merged
    if found is None:
        raise UserError("nothing is merged into the weights of this model")
    return found


def _merged(model: Model, path: str, names: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Weight and bias of one module with its adapters, as new parameters by their names in the model."""
    owner: Any = model.get_submodule(path)
    modules = [module for name in names if (module := attached(model).adapters[name].modules.get(path)) is not None]
    if not all(module.of_weights for module in modules):
        raise UserError(f"the adapter at {path} is no change of weights, and cannot be merged into them")
    if isinstance(owner, QuantisedLinear):
        raise UserError(f"the weights of {path} are quantised; models.surgery.quantise.dequantise makes them floats")
    own, bias = owner.full_weight(), getattr(owner, "bias", None)
    weight, shift = own.detach().float(), None if bias is None else bias.detach().float()
    for module in modules:
        weight, shift = module.merged(owner, weight, shift)
    kind = "tokens" if isinstance(owner, Embedding) else "weight"
    found = {f"{path}.{kind}": nn.Parameter(weight.to(own.dtype))}
    return found if shift is None or bias is None else {**found, f"{path}.bias": nn.Parameter(shift.to(bias.dtype))}


def _logits(model: Model, ids: Tensor) -> Tensor:
    given: Tensor = model(ids, ids) if model.encoders else model(ids)
    return given.float()


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
        adapter = attached(model).adapter(other)
        method = adapter.settings
        if not isinstance(method, LoRA) or method.dora or adapter.values:
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
