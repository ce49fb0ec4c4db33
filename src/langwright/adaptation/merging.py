"""Adapters worked into the weights, exactly undone, or left there for good."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from langwright.adaptation.live import choose, live
from langwright.adaptation.sides import Owner, parts, step_aside
from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.heads import LanguageHead
from langwright.parts.stack import Embedding


@torch.no_grad()
def merge(model: Model, *names: str, ids: Int[Tensor, "batch time"] | None = None) -> float | None:
    """Work adapters into the weights of a model, in float32; those that are chosen, unless named.

    ids: what the change of the logits is measured on; returns the largest, None without ids. The weights as they were
    are kept, so that `unmerge` restores them bit by bit. UserError where a method cannot be merged, where a weight is
    quantised (`models.lowbit.dequantise` makes it a float), or where the token table is the head and only one of them
    is adapted in a family that ties both.
    """
    carried = live(model)
    choose(model, *(names or carried.choice.names))
    names = carried.choice.names
    if not names:
        raise UserError("there is no adapter to merge on this model")
    for name in names:
        if not carried.methods[name].merges:
            raise UserError(f'the adapter "{name}" is not made of changes to weights, and cannot be merged')
    before = None if ids is None else _logits(model, ids)
    made = [(path, *_merged(model, path, names)) for path in _paths(model, names)]
    _untie(model, [path for path, *_ in made])
    kept: dict[str, Tensor] = {}
    for path, weight, bias in made:
        attribute = "tokens" if isinstance(model.get_submodule(path), Embedding) else "weight"
        for ours, value in ((f"{path}.{attribute}", weight), (f"{path}.bias", bias)):
            if value is not None:
                parameter = model.get_parameter(ours)
                kept[ours] = parameter.data
                parameter.data = value.to(parameter.dtype)
    carried.choice.names, carried.merged = (), (names, kept)
    if ids is None or before is None:
        return None
    return float((_logits(model, ids) - before).abs().max())


def unmerge(model: Model) -> None:
    """Give a model the weights back that it had before `merge`, bit by bit, and choose what was merged."""
    carried = live(model)
    if carried.merged is None:
        raise UserError("nothing is merged into the weights of this model")
    names, kept = carried.merged
    for ours, value in kept.items():
        model.get_parameter(ours).data = value
    carried.merged = None
    if carried.untied is not None:
        model.head.weight, model.config = model.body.embed.tokens, carried.untied
        carried.untied = None
    choose(model, *names)


def settle(model: Model) -> None:
    """Leave merged weights as they are for good: the model carries no adapter any more."""
    carried = live(model)
    if carried.merged is None:
        raise UserError("nothing is merged into the weights of this model")
    for name in carried.methods:
        step_aside(model, name)
    carried.thaw()
    del vars(model)["adapters"]


def _paths(model: Model, names: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(path for name in names for path in parts(model, name)))


def _merged(
    model: Model, path: str, names: tuple[str, ...]
) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"] | None]:
    """Weight and bias of one map with its adapters, in float32."""
    owner = model.get_submodule(path)
    assert isinstance(owner, Owner)
    own = getattr(owner, "tokens" if isinstance(owner, Embedding) else "weight", None)
    if not isinstance(own, nn.Parameter) or not own.is_floating_point() or owner.full_weight() is not own:
        raise UserError(
            f"the weights of {path} are quantised, and so cannot take an adapter in; "
            "models.lowbit.dequantise makes them floats first"
        )
    weight = own.detach().float()
    bias: Tensor | None = getattr(owner, "bias", None)
    bias = None if bias is None else bias.detach().float()
    for name in names:
        part = parts(model, name).get(path)
        if part is not None:
            weight, bias = part.merged(owner, weight, bias)
    return weight, bias


def _untie(model: Model, paths: list[str]) -> None:
    """A head that is the token table becomes one of its own before only one of the two is changed."""
    adapted = [p for p in paths if isinstance(model.get_submodule(p), Embedding | LanguageHead)]
    if not adapted or getattr(model.head, "weight", None) is not model.body.embed.tokens:
        return
    if not model.continues or not getattr(model.config, "tie_word_embeddings", False):
        raise UserError(
            f"{adapted[0]} is adapted and the token table is also the head: {model.family} cannot hold the two apart, "
            "so the adapter cannot be merged"
        )
    carried = live(model)
    carried.untied = model.config
    model.config = replace(model.config, tie_word_embeddings=False)
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())


def _logits(model: Model, ids: Tensor) -> Tensor:
    given = model(ids, ids) if model.encoders else model(ids)
    return given.float()
