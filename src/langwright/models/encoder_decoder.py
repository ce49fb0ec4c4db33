"""An encoder-decoder language model: a stack that reads a source, a stack that writes a target, and a head."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from langwright.parts.cross_memory import CrossMemory
from langwright.parts.heads import LanguageHead
from langwright.parts.stack import Stack
from langwright.parts.state import State, Taps


@dataclass(frozen=True)
class Frame:
    """How the texts of a model begin and end, as token ids.

    start: what the decoder is given before the first token. source_bos: whether a source begins with the tokenizer's
    bos; all end with eos. first: what every target must begin with. last: what a target must end with at its limit.
    banned: what no target may hold.
    """

    start: int
    source_bos: bool = False
    first: int | None = None
    last: int | None = None
    banned: tuple[int, ...] = ()


class EncoderDecoderLM(nn.Module):
    """source [B, S], target [B, T] -> logits [B, T, V] (Vaswani et al., 2017).

    `encode` gives the memory, `body` the hidden states of the target, `head` the logits from them.
    family, config: as in `CausalLM`. context: the most positions of source and target; None where there is no end.
    """

    def __init__(
        self,
        family: str,
        config: Any,
        context: int | None,
        encoder: Stack,
        body: Stack,
        head: LanguageHead,
        frame: Frame,
    ):
        super().__init__()
        self.family = family
        self.config = config
        self.context = context
        self.encoder = encoder
        self.body = body
        self.head = head
        self.frame = frame

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        return self.head.weight.shape[0]

    def encode(
        self,
        source: Int[Tensor, "batch source"],
        mask: Bool[Tensor, "batch source"] | None = None,
        taps: Taps | None = None,
        remember: bool = False,
    ) -> CrossMemory:
        """What the decoder reads of a source. remember: see `CrossMemory`."""
        hidden = self.encoder(source, mask, taps=taps)
        ahead = hidden.shape[1] - source.shape[1]  # virtual tokens that stay are read as well
        read = F.pad(mask, (ahead, 0), value=True) if mask is not None and ahead else mask
        return CrossMemory(hidden, read, remember)

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

    def forward(
        self,
        source: Int[Tensor, "batch source"],
        target: Int[Tensor, "batch time"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        target_mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time vocabulary"]:
        """Logits of the next token of the target, which begins with `frame.start`."""
        return self.decode(target, self.encode(source, source_mask), target_mask)
