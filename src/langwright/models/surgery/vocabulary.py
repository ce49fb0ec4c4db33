"""A model with room for more tokens."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from langwright.models.model import Model


@torch.no_grad()
def grow_vocabulary(model: Model, size: int) -> int:
    """Widen the token table and the head to `size` tokens; returns how many rows are new, 0 where there is room.

    Each new row is the mean of the old ones, so that a new token begins as likely as the average one and disturbs the
    others little (Hewitt, "Initializing new word embeddings for pretrained language models", 2021).
    """
    more = size - model.vocabulary
    if more <= 0:
        return 0
    embed, head = model.body.embed, model.head
    tied = head.weight is embed.tokens
    embed.tokens = _grown(embed.tokens, more)
    head.weight = embed.tokens if tied else _grown(head.weight, more)
    if head.bias is not None:
        head.bias = _grown(head.bias, more)
    model.config = replace(model.config, vocab_size=size)
    return more


def _grown(table: Tensor, more: int) -> nn.Parameter:
    mean = table.float().mean(0, keepdim=True).to(table.dtype)
    return nn.Parameter(torch.cat((table, mean.expand(more, *table.shape[1:]))), table.requires_grad)
