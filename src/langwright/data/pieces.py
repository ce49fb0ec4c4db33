"""Documents cut into pieces, and what each objective of pretraining makes of a piece."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from langwright.data.examples import Example, ExampleRows
from langwright.data.noise import Masking, longest
from langwright.data.shards import Tokens

Ids = NDArray[np.int64]


@runtime_checkable
class Corruption(Protocol):
    """What is made of a piece of text."""

    def sizes(self, length: int) -> int:
        """The inputs of the example of a piece of so many tokens, at most."""

    def __call__(self, ids: Ids, key: str) -> Example:
        """The example of a piece; see `data.noise` for the key."""


@dataclass(frozen=True)
class Framing:
    """What stands around a text, as ids.

    Args:
        first, last: before a text, and behind it.
        start: what a decoder reads before the first token of its target, where there is one.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    start: int = 0

    @property
    def size(self) -> int:
        """How many there are around a text."""
        return len(self.first) + len(self.last)

    def around(self, ids: Ids) -> Ids:
        """A text in its frame."""
        return np.concatenate((np.array(self.first, np.int64), ids, np.array(self.last, np.int64)))

    def pair(self, source: Ids, target: Ids) -> Example:
        """A source and its target, which the decoder reads shifted by one (teacher forcing)."""
        source, target = self.around(source), self.around(target)
        return Example(np.concatenate(([self.start], target[:-1])), target, source=source)


@dataclass(frozen=True)
class Continued:
    """Each token predicts the next one, of a piece that brings the one behind it along."""

    def sizes(self, length: int) -> int:
        """All but the last."""
        return length - 1

    def __call__(self, ids: Ids, key: str) -> Example:
        """The piece, and the same one token later."""
        return Example(ids[:-1], ids[1:])


@dataclass(frozen=True)
class Masked:
    """Masked tokens are predicted where they stand (BERT, Devlin et al., 2018)."""

    noise: Masking
    frame: Framing

    def sizes(self, length: int) -> int:
        """The piece and its frame."""
        return length + self.frame.size

    def __call__(self, ids: Ids, key: str) -> Example:
        """The text with its masks, and what they hide."""
        noisy, chosen = self.noise(ids, key)
        return Example(self.frame.around(noisy), ids[chosen], at=np.flatnonzero(chosen) + len(self.frame.first))


@runtime_checkable
class PairNoise(Protocol):
    """What makes a source and a target of a text: `SpanCorruption`, `Denoising`, `Cut`."""

    def sizes(self, length: int) -> tuple[int, int]:
        """Tokens of the source and of the target, at most."""

    def __call__(self, ids: Ids, key: str) -> tuple[Ids, Ids]:
        """The source, and the target."""


@dataclass(frozen=True)
class Paired:
    """What noise took from a text is written by the decoder."""

    noise: PairNoise
    frame: Framing

    def sizes(self, length: int) -> int:
        """The longer side and its frame."""
        return max(self.noise.sizes(length)) + self.frame.size

    def __call__(self, ids: Ids, key: str) -> Example:
        """The source, and the target."""
        return self.frame.pair(*self.noise(ids, key))


def pieces(
    tokens: Tokens,
    corruption: Corruption,
    context: int,
    seed: int,
    around: tuple[int, int] = (0, 0),
    overlap: int = 0,
    packing: bool = False,
) -> ExampleRows:
    """Pieces of documents as rows, those of a document even in length.

    Args:
        tokens: the documents.
        corruption: what is made of a piece.
        context: inputs a row at most.
        seed: of the noise.
        around: how many ids open and end each document, which are not part of its text.
        overlap: tokens that a piece shares with the next one.
        packing: several pieces share a row, none of which sees another.
    """
    cut = cut_documents(tokens, corruption.sizes, context, around, overlap)
    by_length = {length: corruption.sizes(int(length)) for length in np.unique(cut.lengths)}
    sizes = np.array([by_length[length] for length in cut.lengths], dtype=np.int64)
    return ExampleRows(
        lambda piece, epoch: corruption(cut.ids(piece), f"{seed}:{epoch}:{piece}"),
        sizes,
        context,
        {"tokens": tokens.digest, "noise": repr(corruption)},
        packing,
    )


@dataclass(frozen=True, eq=False)
class Cuts:
    """Where documents are cut.

    Args:
        tokens: the documents.
        starts, lengths: of each piece, in tokens.
        document: the number of that of each piece.
    """

    tokens: Tokens
    starts: Ids
    lengths: Ids
    document: Ids

    def ids(self, piece: int) -> Ids:
        """The tokens of a piece."""
        start = self.starts[piece]
        return self.tokens.ids[start : start + self.lengths[piece]].astype(np.int64)


def cut_documents(
    tokens: Tokens, sizes: Callable[[int], int], context: int, around: tuple[int, int] = (0, 0), overlap: int = 0
) -> Cuts:
    """Documents cut into pieces that are even in length. sizes: as of `Corruption`; the rest is as for `pieces`."""
    size = longest(lambda length: (sizes(length),) * 2, context) - overlap
    begins = tokens.offsets[:-1] + around[0]
    texts = tokens.offsets[1:] - around[1] - begins - overlap
    counts = np.where(texts + overlap > 1, -(-texts // size), 0)  # one token has nothing to go by
    document = np.repeat(np.arange(len(texts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    cuts = [texts[document] * (number + i) // counts[document] for i in (0, 1)]
    return Cuts(tokens, begins[document] + cuts[0], cuts[1] - cuts[0] + overlap, document)
