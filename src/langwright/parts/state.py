"""What a model remembers between calls, and what an observer asked to see."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class State(Protocol):
    """The memory of a stack between calls: a KV cache is the usual one (`inference/cache.py`).

    One forward pass calls `place` once, then `extend` once a layer.
    """

    gapless: bool
    """No row has held padding so far: keys are a gapless run of positions that ends with the newest query."""

    @property
    def length(self) -> int:
        """How many slots are held; none before the first call."""
        ...

    def place(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None
    ) -> tuple[Int[Tensor, "batch time"], Sequence[Int[Tensor, "batch keys"]]]:
        """The positions of the new tokens, and the key positions that each layer will see.

        Padding has key position -1. Layers that share a memory layout share one tensor.
        """
        ...

    def extend(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_heads time head_dim"],
        v: Float[Tensor, "batch kv_heads time head_dim"],
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """Remember the new keys and values of a layer; return all that it may attend to."""
        ...


class Taps:
    """What an observer asked to see, kept by kind and slot.

    A slot is a layer's number: recomputation under activation checkpointing overwrites and never counts twice.
    """

    def __init__(self, *kinds: str):
        self.kinds = frozenset(kinds)
        self._slots: dict[str, dict[int, Tensor]] = {kind: {} for kind in kinds}

    def wants(self, kind: str) -> bool:
        """Whether an observer asked for this kind, so that a part may skip computing it."""
        return kind in self.kinds

    def put(self, kind: str, slot: int, value: Tensor) -> None:
        """Store what a part computed; a second value for a slot replaces the first."""
        self._slots[kind][slot] = value

    def get(self, kind: str) -> list[Tensor]:
        """All values of a kind, in the order of their slots."""
        return [value for _, value in sorted(self._slots[kind].items())]
