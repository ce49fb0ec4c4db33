"""The currencies between data and training: batches, and the objectives that they are for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.parts.carry import CarriedState
from langwright.parts.state import Taps

Hidden = tuple[Float[Tensor, "batch targets dim"], Float[Tensor, "batch targets"] | None]
"""The hidden states that predict targets, and what layers of experts add to the loss of each, on the mean of layers."""
T = TypeVar("T")
Models = Any
"""Modules by name, a mapping or an `nn.ModuleDict`; a run is about "model", others (a critic) stand beside it."""


class Batch:
    """Rows of one kind that are trained on together: a frozen dataclass of tensors whose first dimension is the row.

    samples: the sample number of each row, reported when a row yields a loss that is not finite.
    """

    samples: Int[Tensor, " batch"] | None

    def __len__(self) -> int:
        """The number of rows."""
        return int(next(iter(vars(self).values())).shape[0])

    def inputs(self, counted: Tensor) -> Tensor:
        """What a run counts as its tokens: the targets, unless a model reads more than it predicts.

        counted: the count of the objective's first term.
        """
        return counted

    def to(self: T, device: torch.device | str) -> T:
        """The same batch on another device."""
        return type(self)(**{name: None if x is None else x.to(device) for name, x in vars(self).items()})

    def rows(self: T, start: int, stop: int) -> T:
        """The rows `start` to `stop` as a batch of their own, for gradient accumulation."""
        return type(self)(**{name: None if x is None else x[start:stop] for name, x in vars(self).items()})


@runtime_checkable
class Objective(Protocol):
    """What training lowers: the sum over terms of weight * sum / count.

    Counts are known from the batch alone, before the first forward pass, and are summed over micro-batches and ranks;
    so k micro-batches on n ranks give the gradient of one batch. Terms that couple rows gather those of other ranks.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term of the loss. The first one's count is what a run counts as its tokens.

        A term that has a count and no weight is measured: its mean is logged under its name, and nothing learns of it.
        """

    def counts(self, batch: Any) -> dict[str, Tensor]:
        """How much of each term a batch holds, by the term's name."""

    def __call__(self, models: Models, batch: Any) -> dict[str, Tensor]:
        """The sum of each term over a batch; a term may be left out where it is zero.

        Args:
            models: modules by their names.
            batch: some rows, on the device of the models.
        """


@dataclass(frozen=True)
class TokenBatch(Batch):
    """Texts, some of whose positions predict a token: the next one, or the one that a mask hides.

    Args:
        ids: token ids.
        targets: what is predicted, one column a position, or one for each of `at`.
        weights: how much each target counts, 0 for padding and for targets that count elsewhere.
        mask: true where `ids` holds a real token; None when all are, or when padding is a segment of its own.
        positions: None means `cumsum(mask) - 1`.
        segments: the document each token belongs to, when a row packs several; None means one.
        samples: the sample number of each row.
        at: the positions that predict, where they are few; None means all.
        state: what the batches before left in the model, where rows go on from them; None where each stands alone.
    """

    ids: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch targets"]
    weights: Float[Tensor, "batch targets"]
    mask: Bool[Tensor, "batch time"] | None = None
    positions: Int[Tensor, "batch time"] | None = None
    segments: Int[Tensor, "batch time"] | None = None
    samples: Int[Tensor, " batch"] | None = None
    at: Int[Tensor, "batch targets"] | None = None
    state: CarriedState | None = None

    def inputs(self, counted: Tensor) -> Tensor:
        """The targets, or all that is read where few positions predict."""
        return counted if self.at is None else real_tokens(self.ids, self.mask, self.segments)

    def hidden(self, model: Any, balance: bool = False) -> Hidden:
        """What a model makes of the texts; with `balance` also what its experts add."""
        taps = Taps("auxiliary") if balance else None
        hidden = model.body(self.ids, self.mask, self.positions, self.segments, self.state, taps)
        added = _added(taps, self.ids)
        return self.predicting(hidden), added if added is None or self.at is None else added.gather(1, self.at)

    def predicting(self, hidden: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch targets dim"]:
        """The hidden states of the positions that predict."""
        return hidden if self.at is None else hidden.gather(1, self.at[..., None].expand(-1, -1, hidden.shape[-1]))


@dataclass(frozen=True)
class PairBatch(Batch):
    """Sources, and the targets that a decoder learns to write of them (teacher forcing).

    Args:
        source: token ids that the encoder reads.
        ids: token ids that the decoder reads; begins with `frame.start`.
        targets: the token that follows each of `ids`.
        weights: how much each target counts, 0 for padding.
        source_mask: true where `source` holds a real token; None when all are.
        source_segments, segments: the pair each token belongs to, when a row packs several; None means one.
        samples: the sample number of each row.
    """

    source: Int[Tensor, "batch source"]
    ids: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    weights: Float[Tensor, "batch time"]
    source_mask: Bool[Tensor, "batch source"] | None = None
    source_segments: Int[Tensor, "batch source"] | None = None
    segments: Int[Tensor, "batch time"] | None = None
    samples: Int[Tensor, " batch"] | None = None

    def inputs(self, counted: Tensor) -> Tensor:
        """What encoder and decoder read."""
        return counted + real_tokens(self.source, self.source_mask)

    def hidden(self, model: Any, balance: bool = False) -> Hidden:
        """What a model makes of the targets; with `balance` also what the experts of encoder and decoder add."""
        reading, writing = (Taps("auxiliary") if balance else None for _ in range(2))
        memory = model.encode(self.source, self.source_mask, self.source_segments, reading)
        hidden = model.body(self.ids, segments=self.segments, taps=writing, memory=memory)
        read, written = _added(reading, self.source), _added(writing, self.ids)
        if read is None or written is None:
            return hidden, None
        # Each token has the number of its document, so the first one of a pair says it for all targets of that pair.
        if self.segments is None:
            return hidden, (read[:, :1] + written) / 2
        assert self.source_segments is not None
        first = (self.segments[..., None] == self.source_segments[:, None]).int().argmax(-1)
        return hidden, (read.gather(1, first) + written) / 2


def real_tokens(ids: Tensor, mask: Tensor | None, segments: Tensor | None = None) -> Tensor:
    """How many tokens are no padding, as far as mask or segments say; a float, as weights are summed."""
    real = mask if mask is not None else torch.ones_like(ids) if segments is None else segments > 0
    return real.sum(dtype=torch.float32)


def _added(taps: Taps | None, ids: Tensor) -> Float[Tensor, "batch time"] | None:
    """What layers of experts add for the document of each token; virtual tokens stand in front and have no targets."""
    return None if taps is None else torch.stack(taps.get("auxiliary")).mean(0)[:, -ids.shape[1] :]
