"""Pieces of documents with noise: what masked, span and denoising objectives learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from langwright.data.examples import Example, batch_of
from langwright.data.noise import Denoising, Masking, SpanCorruption
from langwright.data.order import row_width
from langwright.data.packing import pack
from langwright.data.shards import Tokens
from langwright.objectives.batch import PairBatch, TokenBatch

Ids = NDArray[np.int64]


class Corruption(Protocol):
    """What is made of a piece of text."""

    def size(self, context: int) -> int:
        """The longest piece whose example has at most so many inputs."""

    def inputs(self, lengths: Ids) -> Ids:
        """The inputs of examples of pieces so long, at most."""

    def example(self, ids: Ids, seed: int, sample: int) -> Example:
        """The example of a piece."""


@dataclass(frozen=True)
class Masked:
    """Masked tokens are predicted where they stand (BERT): cls + text + sep."""

    noise: Masking
    cls: int
    sep: int

    def size(self, context: int) -> int:
        """The piece and its frame fill the context."""
        return context - 2

    def inputs(self, lengths: Ids) -> Ids:
        """The piece and its frame."""
        return lengths + 2

    def example(self, ids: Ids, seed: int, sample: int) -> Example:
        """The text with its masks, and what they hide."""
        noisy, chosen = self.noise(ids, seed, sample)
        return Example(np.concatenate(([self.cls], noisy, [self.sep])), ids[chosen], at=np.flatnonzero(chosen) + 1)


@dataclass(frozen=True)
class Spans:
    """Spans that sentinels stand for are written by the decoder (T5): text + eos -> spans + eos."""

    noise: SpanCorruption
    start: int
    eos: int

    def size(self, context: int) -> int:
        """The noise makes texts shorter."""
        return self.noise.raw(context - 1)

    def inputs(self, lengths: Ids) -> Ids:
        """The source and its end; targets are shorter at the usual density."""
        return np.array([max(self.noise.sizes(int(length))) + 1 for length in lengths])

    def example(self, ids: Ids, seed: int, sample: int) -> Example:
        """What is left of the text, and its spans."""
        source, target = self.noise(ids, seed, sample)
        return pair(np.append(source, self.eos), np.append(target, self.eos), self.start)


@dataclass(frozen=True)
class Denoised:
    """The decoder writes the text that noise was added to (BART): bos + noisy + eos -> bos + text + eos."""

    noise: Denoising
    start: int
    bos: int
    eos: int

    def size(self, context: int) -> int:
        """The piece and its frame fill the context."""
        return context - 2

    def inputs(self, lengths: Ids) -> Ids:
        """The piece and its frame."""
        return lengths + 2

    def example(self, ids: Ids, seed: int, sample: int) -> Example:
        """The noisy text, and the text."""
        source, target = (np.concatenate(([self.bos], x, [self.eos])) for x in (self.noise(ids, seed, sample), ids))
        return pair(source, target, self.start)


def pair(source: Ids, target: Ids, start: int) -> Example:
    """A source and its target, which the decoder reads shifted by one (teacher forcing)."""
    return Example(np.concatenate(([start], target[:-1])), target, source=source)


@final
class Pieces:
    """Pieces of documents, even in length, each made into an example whose noise is new in every epoch.

    Args:
        tokens: the documents.
        corruption: what is made of a piece.
        context: inputs a row at most.
        seed: of the noise.
        frame: how many ids open and end each document, which are not part of its text.
        packing: several pieces share a row, none of which sees another.
    """

    def __init__(
        self,
        tokens: Tokens,
        corruption: Corruption,
        context: int,
        seed: int,
        frame: tuple[int, int] = (0, 0),
        packing: bool = False,
    ) -> None:
        self._tokens, self._corruption, self.context, self._seed = tokens, corruption, context, seed
        self._packing = packing
        begins = tokens.offsets[:-1] + frame[0]
        texts = tokens.offsets[1:] - frame[1] - begins
        counts = np.where(texts > 1, -(-texts // corruption.size(context)), 0)  # one token has nothing to go by
        document = np.repeat(np.arange(len(texts)), counts)
        number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        cuts = [texts[document] * (number + i) // counts[document] for i in (0, 1)]
        self._starts, self._lengths = begins[document] + cuts[0], cuts[1] - cuts[0]
        self._inputs = corruption.inputs(self._lengths)
        self.inputs = int(self._inputs.sum())
        self._rows: Sequence[Sequence[int]] = pack(self._inputs.tolist(), context) if packing else []

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._rows) if self._packing else len(self._starts)

    def lengths(self, numbers: Ids) -> Ids:
        """Inputs of each of some rows, at most."""
        return np.array([sum(self._inputs[i] for i in row) for row in self._members(numbers)], dtype=np.int64)

    def batch(self, numbers: Ids, samples: Ids, fixed: bool = False) -> TokenBatch | PairBatch:
        """Some rows as tensors.

        Args:
            numbers: which rows.
            samples: the number of each as a sample of the run, which decides its noise.
            fixed: whether all rows are as wide as the context.
        """
        rows = [
            [self._example(i, int(sample) * len(self._starts) + i) for i in row]
            for row, sample in zip(self._members(numbers), samples, strict=True)
        ]
        return batch_of(rows, samples, lambda longest: self.context if fixed else row_width(longest, self.context))

    def record(self) -> dict[str, Any]:
        """What identifies the rows."""
        return {"tokens": self._tokens.digest, "noise": repr(self._corruption), "packing": self._packing}

    def _members(self, numbers: Ids) -> list[Sequence[int]]:
        return [self._rows[n] if self._packing else (int(n),) for n in numbers]

    def _example(self, number: int, sample: int) -> Example:
        start = self._starts[number]
        ids = self._tokens.ids[start : start + self._lengths[number]].astype(np.int64)
        return self._corruption.example(ids, self._seed, sample)
