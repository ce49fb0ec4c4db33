"""Windows of text: `context` inputs, each with the token that follows it."""

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.data.order import row_width
from langwright.data.shards import Tokens
from langwright.objectives.batch import TokenBatch

Numbers = NDArray[np.int64]


@final
class Windows:
    """All windows over a row of documents, numbered from 0; eight bytes a document are all that is kept.

    A document of n tokens has n - 1 targets. Its windows lie end to end; the last one is shifted back so that it is
    full, which repeats targets of the one before; a document with fewer targets than `context` is one window, padded.

    Args:
        tokens: the documents.
        context: inputs a window.
        crossing: take all tokens as one document, so that windows run over the bounds of documents.
        once: targets that the window before has too weigh nothing, so that all windows count every target once.
    """

    def __init__(self, tokens: Tokens, context: int, crossing: bool = False, once: bool = False) -> None:
        self._tokens, self.context, self._crossing, self._once = tokens, context, crossing, once
        self._offsets = tokens.offsets[[0, -1]] if crossing else tokens.offsets
        targets = np.maximum(np.diff(self._offsets) - 1, 0)
        windows = -(-targets // context)
        self._ends = np.cumsum(windows)
        self.inputs = int((windows * np.minimum(targets, context)).sum())

    def __len__(self) -> int:
        """The number of windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def lengths(self, numbers: Numbers) -> Numbers:
        """The targets of each of some windows."""
        return self.places(numbers)[1]

    def places(self, numbers: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Where some windows lie.

        Returns:
            The index of the first input of each among all tokens; how many targets it has, the rest being padding at
            its right; and how many of the first of them the window before has too.
        """
        document = np.searchsorted(self._ends, numbers, side="right")
        begin = self._offsets[document]
        targets = self._offsets[document + 1] - begin - 1
        windows = -(-targets // self.context)
        plain = (numbers - self._ends[document] + windows) * self.context
        shifted = np.minimum(plain, np.maximum(targets - self.context, 0))
        return begin + shifted, np.minimum(targets, self.context), plain - shifted

    def batch(self, numbers: Numbers, samples: Numbers, fixed: bool = False) -> TokenBatch:
        """Some windows as tensors; every real target weighs 1, padding and what counts elsewhere 0."""
        starts, lengths, repeated = (each[:, None] for each in self.places(numbers))
        width = self.context if fixed else row_width(int(lengths.max()), self.context)
        column = np.arange(width + 1)
        real = column[:-1] < lengths
        ids = self._tokens.ids[np.minimum(starts + column, starts + lengths)].astype(np.int64)
        weights = real & (column[:-1] >= repeated * self._once)
        return TokenBatch(
            ids=torch.from_numpy(ids[:, :-1] * real),
            targets=torch.from_numpy(ids[:, 1:] * real),
            weights=torch.from_numpy(weights.astype(np.float32)),
            mask=None if real.all() else torch.from_numpy(real),
            samples=torch.from_numpy(samples),
        )

    def record(self) -> dict[str, Any]:
        """What identifies the windows."""
        return {"tokens": self._tokens.digest, "crossing": self._crossing}
