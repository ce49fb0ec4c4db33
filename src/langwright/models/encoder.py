"""A stack that reads a whole text, and a head that answers for it."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from langwright.parts.stack import Stack
from langwright.parts.state import Taps


class Encoder(nn.Module):
    """ids [B, T] -> what its head makes of the hidden states: logits a token or a text, a vector a text, or themselves.

    family: its name in the table of families (`models/families.py`). task: which of the family's heads it carries.
    config: the family's config. context: the most positions the model was made for.
    labels: the names of what a classifying head tells apart, in the order of its logits.
    """

    def __init__(
        self,
        family: str,
        task: str,
        config: Any,
        context: int,
        body: Stack,
        head: nn.Module,
        labels: tuple[str, ...] = (),
    ):
        super().__init__()
        self.family = family
        self.task = task
        self.config = config
        self.context = context
        self.body = body
        self.head = head
        self.labels = labels

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        return self.body.embed.tokens.shape[0]

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "batch time"] | None = None,
        types: Int[Tensor, "batch time"] | None = None,
        taps: Taps | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """The head's answer; arguments as in `Stack.forward`."""
        return self.head(self.body(ids, mask, positions, types=types, taps=taps), mask)
