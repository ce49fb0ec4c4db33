"""What a training run learns from and is measured on, whatever kind of data it came from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from langwright.models.model import Model
from langwright.objectives.batch import Batch
from langwright.text.tokenizer import Tokenizer

Row = dict[str, Any]
Sampler = Callable[[Model], str]


@runtime_checkable
class StepBatches(Protocol):
    """An endless row of training batches, each a pure function of its step."""

    @property
    def windows(self) -> int:
        """The samples of one epoch."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """Inputs a step, padding included."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        ...

    def record(self) -> Row:
        """What a checkpoint keeps to know that a resumed run sees the same samples."""
        ...


@dataclass(frozen=True)
class Supply:
    """The data of a run.

    held_out: batches with every held-out target once, or with those of at most so many windows, evenly spread.
    held_out_tokens, held_out_bytes: the size of all of it; bytes of the text in UTF-8.
    record: what identifies the data; its "hash" is part of the run's identity.
    generation: fields for generation_config.json besides those of the tokenizer.
    sample: lets a model write something for the live view; it goes on from nothing unless given.
    """

    tokenizer: Tokenizer
    batches: StepBatches
    held_out: Callable[[int | None], Iterator[Batch]]
    held_out_tokens: int
    held_out_bytes: int
    record: Row
    generation: Row = field(default_factory=dict)
    sample: Sampler | None = None
