"""Fewer key and value heads: multi-head attention turned into grouped-query attention."""

import dataclasses

import torch

from langwright.base.errors import UserError
from langwright.models.families import FAMILIES
from langwright.models.model import Model
from langwright.parts.attention import Attention

FIELD = "num_key_value_heads"


@torch.no_grad()
def pool_heads(model: Model, kv_heads: int) -> Model:
    """The same model with `kv_heads` heads of keys and values, each the mean of a group (Ainslie et al., 2023).

    The given model stays as it is. Where the heads of a group are equal the logits are too; otherwise some further
    training, 5 percent of the first in the paper, makes up for what the mean lost. UserError for a family without
    grouped heads, or a number that does not divide that of the model.
    """
    if not hasattr(model.config, FIELD):
        raise UserError(f"{model.family} has no heads of keys and values apart from those of queries")
    had = getattr(model.config, FIELD) or model.config.num_attention_heads
    if kv_heads < 1 or had % kv_heads:
        raise UserError(f"{kv_heads} heads of keys and values do not divide the {had} that the model has")
    pooled = FAMILIES[model.family].build(dataclasses.replace(model.config, **{FIELD: kv_heads}))
    state = model.state_dict()
    for name, module in model.named_modules():
        for key in (f"{name}.{which}.{kind}" for which in "kv" for kind in ("weight", "bias")):
            if isinstance(module, Attention) and key in state:  # heads of a group lie side by side
                state[key] = state[key].unflatten(0, (kv_heads, had // kv_heads, -1)).mean(1).flatten(0, 1)
    pooled.to(model.device, next(model.parameters()).dtype).load_state_dict(state)
    return pooled.train(model.training)
