"""Who may attend to whom: described once, lowered to the cheapest form the kernel takes."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where queries and keys stand in one forward pass.

    query: positions of the queries. key: positions of the keys, -1 where a slot holds no real token.
    query_segments, key_segments: documents packed into one row see only themselves; None means one document.
    dense: the keys are a gapless run of positions that ends with the queries, so that shapes alone decide.
    """

    query: Int[Tensor, "#batch queries"]
    key: Int[Tensor, "#batch keys"]
    dense: bool
    query_segments: Int[Tensor, "batch queries"] | None = None
    key_segments: Int[Tensor, "batch keys"] | None = None


class Lowered(NamedTuple):
    """A bias in the form that a kernel takes: nothing, a plain causal triangle, or a table of what is allowed."""

    causal: bool = False
    allowed: Bool[Tensor, "#batch 1 #queries keys"] | None = None
    scores: Float[Tensor, "#batch 1 #queries keys"] | None = None

    def additive(self, queries: int, keys: int, like: Tensor) -> "Lowered":
        """The same bias as scores to add: 0 where allowed, the lowest finite number elsewhere (never NaN rows)."""
        allowed = self.allowed
        if self.causal:
            allowed = torch.ones(queries, keys, dtype=torch.bool, device=like.device).tril(keys - queries)[None, None]
        if allowed is None:
            return self
        zeros = torch.zeros((), dtype=like.dtype, device=like.device)
        return Lowered(scores=torch.where(allowed, zeros, torch.finfo(like.dtype).min))


@dataclass(frozen=True)
class Bias:
    """A description of the score bias of one layer.

    causal: a query sees no later position. window: a query sees itself and the `window - 1` positions before it.
    """

    causal: bool = False
    window: int | None = None

    def lower(self, places: Places) -> Lowered:
        """The cheapest equal form. Padding (key position -1) and segments are always honoured."""
        queries, keys = places.query.shape[1], places.key.shape[1]
        if places.dense and places.key_segments is None and (self.window is None or keys <= self.window):
            if not self.causal or queries == 1:
                return Lowered()
            if queries == keys:
                return Lowered(causal=True)
        query, key = places.query[:, :, None], places.key[:, None, :]
        allowed = key >= 0
        if self.causal:
            allowed = allowed & (key <= query)
        if self.window is not None:
            allowed = allowed & (query - key < self.window)
        if places.query_segments is not None and places.key_segments is not None:
            allowed = allowed & (places.query_segments[:, :, None] == places.key_segments[:, None, :])
        return Lowered(allowed=allowed[:, None])
