"""A decoder-only language model: a stack and a language-modelling head."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from langwright.parts.heads import LanguageHead
from langwright.parts.stack import Stack
from langwright.parts.state import State, Taps


class CausalLM(nn.Module):
    """ids [B, T] -> logits [B, T, V]; `body` gives the hidden states, `head` the logits from them.

    family: its name in the table of families (`models/families.py`). config: that family's config.
    context: the most positions the model was made for.
    """

    def __init__(self, family: str, config: Any, context: int, body: Stack, head: LanguageHead):
        super().__init__()
        self.family = family
        self.config = config
        self.context = context
        self.body = body
        self.head = head

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        return self.head.weight.shape[0]

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "batch time"] | None = None,
        state: State | None = None,
        taps: Taps | None = None,
    ) -> Float[Tensor, "batch time vocabulary"]:
        """Logits of the next token at every position; arguments as in `Stack.forward`."""
        return self.head(self.body(ids, mask, positions, state=state, taps=taps))
