"""The model: a body, its heads, and the encoders whose output the body reads; a body of equal layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from langwright.parts import Bias, Block, Embedding, LanguageHead, Norm, ParallelBlock, Residual, Rope, Stack
from langwright.parts.bias import EVERY_SEGMENT
from langwright.parts.state import CrossMemory, State, Taps

WINDOW = 256
"""Tokens that a model without a limit reads at once."""


@dataclass(frozen=True)
class Frame:
    """How the texts of an encoder-decoder begin and end, as token ids.

    Args:
        start: the id that the decoder reads before the first token of the target.
        source_bos: whether a source begins with the tokenizer's bos. All end with eos.
        first: the id that every target begins with.
        last: the id that a target ends with when it reaches its limit.
        banned: ids that no target may hold.
    """

    start: int
    source_bos: bool = False
    first: int | None = None
    last: int | None = None
    banned: tuple[int, ...] = ()


class Model(nn.Module):
    """A body with named heads and encoders, usually one or none of each.

    A decoder (GPT) and an encoder (BERT) are a body, with or without a head. An encoder-decoder (T5) is a body that
    reads what its encoder makes of a source. `model.head` and `model.encoder` are submodules of these names; `head` is
    None for a model that gives hidden states.

    Args:
        body: gives the hidden states.
        heads: what is computed from the hidden states, by name; the first answers `forward`.
        encoders: the stacks whose output the body reads, by name.
        config: the family's config.
        task: what the head is for: "language", "masked", "pretraining" (masked, and `next` beside it),
            "sequence", "token", "span", "embedding" or "hidden".
        labels: the names of the classes of a classifying head, in the order of its logits.
        frame: how targets begin and end, for an encoder-decoder.

    Attributes:
        family: name of the row in the table of families (`models/families/__init__.py`), which `Family.build` sets.
        context: the most positions of a text; None where there is no limit.
        new: the tensors, by their names on disk, that its head needs and the files it was read from lack.
    """

    body: Stack
    head: Any
    encoder: Stack

    def __init__(
        self,
        body: Stack,
        heads: Mapping[str, nn.Module] = {},
        encoders: Mapping[str, Stack] = {},
        *,
        config: Any,
        task: str = "language",
        labels: tuple[str, ...] = (),
        frame: Frame | None = None,
    ):
        super().__init__()
        self.family, self.config = "", config
        self.context: Any = config.context
        self.task, self.labels = task, labels
        self.new: tuple[str, ...] = ()
        self.frame: Any = frame
        self.encoders, self.heads = tuple(encoders), tuple(heads)
        for name, module in {**encoders, "body": body, **heads}.items():
            self.add_module(name, module)
        if "head" not in heads:
            self.register_module("head", None)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def window(self) -> int:
        """Tokens that are read at once unless something else is said: the context, where there is a limit."""
        return self.context or WINDOW

    def fits(self, tokens: int) -> bool:
        """Whether so many tokens are within the context."""
        return self.context is None or tokens <= self.context

    @property
    def generates(self) -> bool:
        """Whether the head gives logits of the next token, so that the model writes text."""
        return self.task == "language"

    @property
    def fills(self) -> bool:
        """Whether the head gives logits of the tokens that masks hide."""
        return self.task in ("masked", "pretraining")

    @property
    def typed(self) -> bool:
        """Whether its tokens have types, which tell the texts of a pair apart."""
        return getattr(self.body.embed, "types", None) is not None

    @property
    def causal(self) -> bool:
        """Whether what is made of a token has read none after it."""
        return self.body.causal and not self.encoders

    @property
    def continues(self) -> bool:
        """Whether the model writes text and its prompt is part of that text: a decoder without an encoder."""
        return self.generates and not self.encoders

    @property
    def stacks(self) -> dict[str, Stack]:
        """Encoders and body by name, in the order in which they are computed."""
        return {name: self.get_submodule(name) for name in (*self.encoders, "body")}  # type: ignore[misc]

    def forward(self, *inputs: Any, **named: Any) -> Float[Tensor, "batch *shape"]:
        """What the head makes of a text, or the hidden states where there is no head.

        Without an encoder the call is `model(ids, mask=None, positions=None, types=None, state=None, taps=None)`.
        An encoder-decoder is called as `model(source, target, source_mask=None, target_mask=None)`; with a head of
        labels as one without an encoder, and its decoder reads the same text, one token later.

        Args:
            ids: token ids [batch, time]; the other arguments are as in `Stack.forward`.
            source: token ids of what the encoder reads, [batch, source].
            target: token ids of what the decoder reads, [batch, time]; begins with `frame.start`.

        Returns:
            For a head over the vocabulary logits [batch, time, vocabulary].
        """
        return (self._translate if self.encoders and self.generates else self._read)(*inputs, **named)

    def encode(
        self,
        source: Int[Tensor, "batch source"],
        mask: Bool[Tensor, "batch source"] | None = None,
        segments: Int[Tensor, "batch source"] | None = None,
        taps: Taps | None = None,
    ) -> CrossMemory:
        """What the body reads of a source.

        Args:
            source: token ids [batch, source].
            mask: true where a token is real.
            segments: the pair each token belongs to, where a row packs several.
            taps: what to record.
        """
        hidden = self.encoder(source, mask, segments=segments, taps=taps)
        ahead = (hidden.shape[1] - source.shape[1], 0)  # virtual tokens whose hidden states are read as well
        read = None if mask is None else F.pad(mask, ahead, value=True)
        of = None if segments is None else F.pad(segments, ahead, value=EVERY_SEGMENT)
        return CrossMemory(hidden, read, of)

    def decode(
        self,
        target: Int[Tensor, "batch time"],
        memory: CrossMemory,
        mask: Bool[Tensor, "batch time"] | None = None,
        state: State | None = None,
        taps: Taps | None = None,
    ) -> Float[Tensor, "batch time vocabulary"]:
        """Logits of the next token at every position of the target; arguments as in `Stack.forward`."""
        return self.head(self.body(target, mask, state=state, taps=taps, memory=memory))

    def _read(
        self,
        inputs: Shaped[Tensor, "batch *size"],
        mask: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "batch time"] | None = None,
        types: Int[Tensor, "batch time"] | None = None,
        state: State | None = None,
        taps: Taps | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        if self.encoders:  # what the decoder reads at a token is the one before it
            first = torch.zeros_like(inputs, dtype=torch.bool)
            first[:, 0] = True
            first = first if mask is None else mask & (mask.cumsum(1) == 1)
            later = inputs.roll(1, 1).masked_fill(first, self.frame.start)
            hidden = self.body(later, mask, positions, taps=taps, memory=self.encode(inputs, mask, taps=taps))
        else:
            hidden = self.body(inputs, mask, positions, types=types, state=state, taps=taps)
        return hidden if self.head is None else self.head(hidden, mask)

    def _translate(
        self,
        source: Int[Tensor, "batch source"],
        target: Int[Tensor, "batch time"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        target_mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time vocabulary"]:
        return self.decode(target, self.encode(source, source_mask), target_mask)


PLACES = {"pre": ("in_norm",), "post": ("out_norm",), "sandwich": ("in_norm", "res_norm"), "shared": ()}
"""Where norms stand -> the norms of each branch."""


def stack(
    embed: Embedding,
    layers: int,
    *,
    norm: Callable[[], Norm],
    attention: Callable[[int], nn.Module],
    feedforward: Callable[[int], nn.Module],
    cross: Callable[[int], nn.Module] | None = None,
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

    def branch(fn: nn.Module) -> Residual:
        return Residual(fn, **{place: norm() for place in PLACES[norms]}, dropout=dropout)

    def block(layer: int) -> Block | ParallelBlock:
        first, last = branch(attention(layer)), branch(feedforward(layer))
        if parallel:
            return ParallelBlock(first, last, bias(layer), norm() if norms == "shared" else None)
        return Block(first, last, bias(layer), None if cross is None else branch(cross(layer)))

    blocks = [block(layer) for layer in range(layers)]
    return Stack(embed, blocks, None if norms == "post" else norm(), rope, out_dropout)


def language_model(
    body: Stack,
    config: Any,
    tied: bool = True,
    bias: bool = False,
    softcap: float | None = None,
    dim: int | None = None,
) -> Model:
    """A decoder.

    Args:
        body, config: see `Model`.
        tied: whether its head is the token table.
        bias, softcap: see `LanguageHead`.
        dim: width of the hidden states, that of the token vectors unless given.
    """
    tokens = body.embed.tokens
    head = LanguageHead(tokens.shape[0], dim or tokens.shape[1], tokens if tied else None, softcap, bias=bias)
    return Model(body, {"head": head}, config=config)
