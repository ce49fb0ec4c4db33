"""Adapters merged into the weights, exactly undone, or left there for good."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from langwright.adaptation.attached import attached
from langwright.adaptation.base_parameters import is_tied
from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.quantised import QuantisedLinear
from langwright.parts.stack import Embedding


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
