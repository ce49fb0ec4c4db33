"""What an engine keeps of texts between steps: the protocol, and the memory that keeps nothing."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.inference.blocks import Blocks
from langwright.inference.continuation import Continuation, Piece
from langwright.models.model import Model
from langwright.parts.state import CrossMemory

Ids = Int[Tensor, "rows time"]
Real = Bool[Tensor, "rows time"]
Hidden = Float[Tensor, "rows time dim"]


@runtime_checkable
class Memory(Protocol):
    """The memory of all texts: `PagedCache`, or `Sinks`, or `Nothing`.

    Attributes:
        blocks: where texts and their sources lie, as numbers.
        keeps: whether what was read is kept, so that a text is read piece by piece.
        reuses: whether all that is kept of a text lies in its blocks, and depends on no more than the tokens before.
        rewrites: whether tokens that were read may be replaced by others.
    """

    blocks: Blocks
    keeps: bool
    reuses: bool
    rewrites: bool

    def ahead(self, text: Continuation) -> int:
        """Virtual tokens before a text."""
        ...

    def reach(self, text: Continuation, most: int) -> int:
        """Behind which token of a text its next piece ends, of so many tokens at the most where that is possible."""
        ...

    def spans(self, text: Continuation, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The tokens that reading a part of a text writes into blocks: its own, and those of its source.

        Returns:
            The first, and the last + 1, of both.
        """
        ...

    def read(self, ids: Ids, real: Real | None, pieces: Sequence[Piece], encoded: CrossMemory | None) -> Hidden:
        """One forward pass over rows of pieces, all of them from the beginning of their texts or none.

        Args:
            ids: of the tokens, with padding at the right.
            real: what is no padding; None means all.
            pieces: what the rows are.
            encoded: what an encoder has just made of their sources, where they begin.
        """
        ...

    def prepare(self, copies: Sequence[tuple[int, int]]) -> None:
        """Make blocks ready that were claimed: those in `copies` with what another one holds, (block, its copy)."""
        ...


def as_at_first(text: Continuation) -> int:
    """Where the next piece ends of a text that other pieces would change: the prompt whole, then single tokens."""
    return text.prompt if not text.computed else text.computed + 1


class Nothing:
    """No memory: every token is computed from the beginning of its text, for comparison."""

    keeps = reuses = rewrites = False

    def __init__(self, model: Model):
        self._model, self.blocks = model, Blocks(0, 1)

    def ahead(self, text: Continuation) -> int:
        """Nothing is kept of them."""
        return 0

    def reach(self, text: Continuation, most: int) -> int:
        """To its end."""
        return len(text.ids)

    def spans(self, text: Continuation, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """No blocks."""
        return (0, 0), (0, 0)

    def read(self, ids: Ids, real: Real | None, pieces: Sequence[Piece], encoded: CrossMemory | None) -> Hidden:
        """See `Memory`."""
        hidden: Tensor = self._model.body(ids, real, memory=encoded)
        return hidden

    def prepare(self, copies: Sequence[tuple[int, int]]) -> None:
        """There is nothing to prepare."""
