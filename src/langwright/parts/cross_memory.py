"""What a decoder reads of its encoder: hidden states, which of them are real, and keys and values made of them."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

KeysValues = tuple[
    Float[Tensor, "batch kv_heads source head_dim"],
    Float[Tensor, "batch kv_heads source head_dim"],
]


class CrossMemory:
    """The encoder's output, for cross-attention (Vaswani et al., 2017).

    Args:
        hidden: the encoder's hidden states.
        mask: true where a token of the source is real; None means all are.
        remember: whether keys and values of a layer are kept from the first call on, as in generation. In training
            each call makes them again, so that every backward pass has a graph of its own.
    """

    def __init__(
        self,
        hidden: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None = None,
        remember: bool = False,
    ):
        self.hidden, self.mask, self.remember = hidden, mask, remember
        self._made: dict[int, KeysValues] = {}

    @property
    def positions(self) -> Int[Tensor, "#batch source"]:
        """Where the keys stand; -1 for padding."""
        counted = torch.arange(self.hidden.shape[1], device=self.hidden.device)[None]
        return counted if self.mask is None else counted.masked_fill(~self.mask, -1)

    def keys_values(self, layer: int, make: Callable[[Tensor], KeysValues]) -> KeysValues:
        """The keys and values of a layer; `make` turns the hidden states into them."""
        made = self._made.get(layer) or make(self.hidden)
        if self.remember:
            self._made[layer] = made
        return made

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the batch, in this order; a row may come several times."""
        self.hidden = self.hidden[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self._made = {layer: (k[rows], v[rows]) for layer, (k, v) in self._made.items()}
