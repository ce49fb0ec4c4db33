"""Who may attend to whom: described once, lowered to the cheapest form the kernel takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

EVERY_SEGMENT = -1
"""The segment of keys that all documents see: virtual tokens."""


@dataclass(frozen=True)
class Places:
    """Where queries and keys stand in one forward pass.

    Args:
        query: positions of the queries.
        key: positions of the keys, -1 where a slot holds no real token.
        gapless: the keys are a gapless run of positions that ends with the queries, so that shapes alone decide.
        query_segments, key_segments: documents packed into one row see only themselves, and keys of `EVERY_SEGMENT`;
            None means one document.
    """

    query: Int[Tensor, "#batch queries"]
    key: Int[Tensor, "#batch keys"]
    gapless: bool
    query_segments: Int[Tensor, "batch queries"] | None = None
    key_segments: Int[Tensor, "batch keys"] | None = None


Term = Callable[[Places, torch.dtype], Float[Tensor, "#batch heads queries keys"]]
"""Numbers that a family adds to the scores by position: ALiBi, or the learned table of T5 (then a module). What it says
of keys that are not allowed is overwritten."""


@dataclass(frozen=True)
class Alibi:
    """-slope * distance, with a slope for each head (Press et al., 2022).

    The slopes of 2^k heads are the powers of 2^(-8 / 2^k); other numbers of heads take the row of the next lower power
    of two and fill up with every second slope of the next higher one, as in the authors' code.
    """

    heads: int

    def slopes(self) -> list[float]:
        """One slope a head."""
        power = 1 << (self.heads.bit_length() - 1)
        row = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
        return row + between[: self.heads - power]

    def __call__(self, places: Places, dtype: torch.dtype) -> Float[Tensor, "#batch heads queries keys"]:
        distance = (places.query[:, :, None] - places.key[:, None, :]).abs()
        slopes = torch.tensor(self.slopes(), device=distance.device)
        return (-slopes[:, None, None] * distance[:, None]).to(dtype)


class RelativeBias(nn.Module):
    """A learned number for each head and bucket of distances, shared by a stack's layers (T5, Raffel et al., 2020).

    Half of the buckets hold one distance each; the others grow with its logarithm up to `longest`, and the last one
    takes all beyond. both: half of the buckets are for keys after the query; otherwise those share bucket 0.
    """

    def __init__(self, heads: int, buckets: int = 32, longest: int = 128, both: bool = False):
        super().__init__()
        self.table = nn.Parameter(torch.empty(buckets, heads))
        self.longest, self.both = longest, both

    def buckets(self, distance: Int[Tensor, "*batch queries keys"]) -> Int[Tensor, "*batch queries keys"]:
        """The bucket of each distance: key position - query position."""
        count = self.table.shape[0] // 2 if self.both else self.table.shape[0]
        first = (distance > 0) * count if self.both else torch.zeros_like(distance)
        far = distance.abs() if self.both else (-distance).clamp(min=0)
        exact = count // 2
        growth = (far.clamp(min=1).float() / exact).log() / math.log(self.longest / exact) * (count - exact)
        return first + torch.where(far < exact, far, (exact + growth.long()).clamp(max=count - 1))

    def forward(self, places: Places, dtype: torch.dtype) -> Float[Tensor, "#batch heads queries keys"]:
        """What is added to the scores (see `Term`)."""
        distance = places.key[:, None, :] - places.query[:, :, None]
        return self.table.to(dtype)[self.buckets(distance)].permute(0, 3, 1, 2)


class Lowered(NamedTuple):
    """A bias in the form that a kernel takes: nothing, a plain causal triangle, what is allowed, or scores to add.

    Args:
        causal: the kernel's own triangle.
        allowed: true where a query may see a key.
        scores: added to the scores.
        described: bias and places as they are, for tiles and for slots with a kernel of their own.
        tiled: whether `described` alone says it, for the readable FlashAttention.
    """

    causal: bool = False
    allowed: Bool[Tensor, "#batch 1 #queries keys"] | None = None
    scores: Float[Tensor, "#batch #heads #queries keys"] | None = None
    described: "tuple[Bias, Places] | None" = None
    tiled: bool = False

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

    Args:
        causal: a query sees no later position.
        window: a query sees itself and the `window - 1` positions before it.
        term: what else is added to the scores, by position.
    """

    causal: bool = False
    window: int | None = None
    term: Term | None = None

    def lower(self, places: Places, dtype: torch.dtype = torch.float32) -> Lowered:
        """The cheapest equal form. Padding (key position -1) and segments are always honoured.

        dtype: of the scores, where there is a term.
        """
        queries, keys = places.query.shape[1], places.key.shape[1]
        by_shape = places.gapless and places.key_segments is None and (self.window is None or keys <= self.window)
        if by_shape and (not self.causal or queries == 1):
            hidden = Lowered()
        elif by_shape and queries == keys:
            hidden = Lowered(causal=True)
        else:
            hidden = Lowered(allowed=self.allowed(places))
        if self.term is None:
            return hidden
        added = self.term(places, dtype)
        hiding = hidden.additive(queries, keys, added).scores
        return Lowered(scores=added if hiding is None else torch.where(hiding < 0, hiding, added))

    def allowed(self, places: Places) -> Bool[Tensor, "#batch 1 queries keys"]:
        """True where a query may see a key."""
        query, key = places.query[:, :, None], places.key[:, None, :]
        allowed = key >= 0
        if self.causal:
            allowed = allowed & (key <= query)
        if self.window is not None:
            allowed = allowed & (query - key < self.window)
        if places.query_segments is not None and places.key_segments is not None:
            same = places.query_segments[:, :, None] == places.key_segments[:, None, :]
            allowed = allowed & (same | (places.key_segments[:, None] == EVERY_SEGMENT))
        return allowed[:, None]
