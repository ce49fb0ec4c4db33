"""A stack of layers of one kind, and the model of a stack and a head over the vocabulary."""

from collections.abc import Callable
from typing import Literal

from langwright.models.config import Config
from langwright.models.model import Model
from langwright.parts import Bias, Block, Branch, Embedding, LanguageHead, Norm, ParallelBlock, Residual, Rope, Stack

PLACES = {"pre": ("in_norm",), "post": ("out_norm",), "sandwich": ("in_norm", "res_norm"), "shared": ()}
"""Where norms stand -> the norms of each branch."""


def stack(
    embed: Embedding,
    layers: int,
    *,
    norm: Callable[[], Norm],
    attention: Callable[[int], Branch],
    feedforward: Callable[[int], Branch],
    cross: Callable[[int], Branch] | None = None,
    bias: Callable[[int], Bias] = lambda layer: Bias(causal=True),
    norms: Literal["pre", "post", "sandwich", "shared"] = "pre",
    parallel: bool = False,
    dropout: float = 0.0,
    out_dropout: float = 0.0,
    rope: Rope | None = None,
) -> Stack:
    """Equal layers on an embedding, with a norm at the end unless each branch ends with one.

    Args:
        embed: makes vectors of tokens.
        layers: how many there are.
        norm: makes one norm of the residual stream.
        attention, feedforward, cross: make what a branch wraps, given the number of the layer; `cross` where the layer
            reads a memory.
        bias: what the attention of a layer may see, given its number.
        norms: "pre", before what a branch wraps; "post", after the sum; "sandwich", before and after what it wraps;
            "shared", one that both branches read.
        parallel: whether both branches read the same input.
        dropout: of what a branch gives. out_dropout: of what the stack gives.
        rope: turns queries and keys.
    """

    def branch(fn: Branch) -> Residual:
        return Residual(fn, **{place: norm() for place in PLACES[norms]}, dropout=dropout)

    def block(layer: int) -> Block | ParallelBlock:
        first, last = branch(attention(layer)), branch(feedforward(layer))
        if parallel:
            return ParallelBlock(first, last, bias(layer), norm() if norms == "shared" else None)
        return Block(first, last, bias(layer), None if cross is None else branch(cross(layer)))

    blocks = [block(layer) for layer in range(layers)]
    return Stack(embed, blocks, None if norms == "post" else norm(), rope, out_dropout)


def language_model(
    body: Stack, config: Config, tied: bool = True, bias: bool = False, softcap: float | None = None
) -> Model:
    """A decoder. tied: whether its head is the token table. bias, softcap: see `LanguageHead`."""
    tokens = body.embed.tokens
    head = LanguageHead(tokens.shape[0], tokens.shape[1], tokens if tied else None, softcap, bias=bias)
    return Model(body, {"head": head}, config=config)
