"""What a training run learns from and is measured on, whatever kind of data it came from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from langwright.objectives.batch import Batch, Models
from langwright.text.tokenizer import Tokenizer

Row = dict[str, Any]


@runtime_checkable
class Sized(Protocol):
    """What is known of training batches before any is made."""

    @property
    def windows(self) -> int:
        """The samples of one epoch."""

    @property
    def tokens_per_step(self) -> int:
        """Real inputs a step over all ranks, on average."""

    def record(self) -> Row:
        """What a checkpoint keeps to know that a resumed run sees the same samples."""


@runtime_checkable
class StepBatches(Sized, Protocol):
    """An endless row of training batches, each a pure function of its step; they are made ahead of time."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""


@runtime_checkable
class StatefulBatches(Sized, Protocol):
    """Training batches that depend on what came before: rollouts of the models, carried recurrent states.

    They are never made ahead of time, may serve several updates a draw, and are saved with the run.
    """

    def next(self, models: Models) -> Batch:
        """The batch of the next update, given the models by name as they are now."""

    def state(self) -> dict[str, Tensor]:
        """What the next batches depend on, besides the models and PyTorch's random state."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""


@dataclass(frozen=True)
class Supply:
    """The data of a run.

    Args:
        tokenizer: of the text.
        batches: what is trained on.
        held_out: batches with every held-out target once, or with those of at most so many windows, evenly spread.
        held_out_tokens: how many targets that is.
        held_out_bytes: UTF-8 bytes of the held-out text.
        record: what identifies the data; its "hash" is part of the run's identity.
        prompt: ids from which a sample of the model's writing goes on; an empty text unless given.
    """

    tokenizer: Tokenizer
    batches: StepBatches | StatefulBatches
    held_out: Callable[[int | None], Iterator[Any]]
    held_out_tokens: int
    held_out_bytes: int
    record: Row
    prompt: tuple[int, ...] | None = None
