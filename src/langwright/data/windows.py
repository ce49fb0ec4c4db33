"""Where training and evaluation look: windows of `context` inputs, each with the token that follows it."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Places:
    """Windows, one entry each.

    starts: the index of the first input among all tokens.
    lengths: how many targets there are, at most `context`; the rest of the window is padding at its right.
    repeated: how many of the first targets the window before has too.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    repeated: NDArray[np.int64]


@final
class Windows:
    """All windows over a row of documents, numbered from 0; eight bytes a document are all that is kept.

    A document of n tokens has n - 1 targets. Its windows lie end to end; the last one is shifted back so that it is
    full, which repeats targets of the one before; a document with fewer targets than `context` is one window, padded.
    """

    def __init__(self, offsets: NDArray[np.int64], context: int, *, crossing: bool = False) -> None:
        """Lay the windows out.

        offsets: where each document begins, and the end of the last.
        context: inputs a window.
        crossing: take all tokens as one document, so that windows run over the bounds of documents.
        """
        self._offsets = offsets[[0, -1]] if crossing else offsets
        self._context = context
        targets = np.maximum(np.diff(self._offsets) - 1, 0)
        self._ends = np.cumsum(-(-targets // context))

    def __len__(self) -> int:
        """The number of windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def targets(self) -> int:
        """The targets of all windows together, repeated ones too."""
        targets = np.maximum(np.diff(self._offsets) - 1, 0)
        return int((-(-targets // self._context) * np.minimum(targets, self._context)).sum())

    def places(self, numbers: NDArray[np.int64]) -> Places:
        """Where the windows with these numbers lie."""
        document = np.searchsorted(self._ends, numbers, side="right")
        begin = self._offsets[document]
        targets = self._offsets[document + 1] - begin - 1
        windows = -(-targets // self._context)
        plain = (numbers - self._ends[document] + windows) * self._context
        shifted = np.minimum(plain, np.maximum(targets - self._context, 0))
        return Places(begin + shifted, np.minimum(targets, self._context), plain - shifted)
