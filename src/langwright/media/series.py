"""Series of several channels: cut into windows, and brought to a common scale."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Series = NDArray[np.float32]
"""[time, channels]"""


def window_starts(length: int, window: int, step: int) -> range:
    """Where the windows of a series begin: every `step` samples, as long as a whole one is left; at least one."""
    return range(0, max(length - window, 0) + 1, step)


@dataclass(frozen=True)
class Scale:
    """What brings each channel to mean 0 and standard deviation 1.

    Args:
        mean, deviation: of each channel.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, series: Iterable[Series]) -> "Scale":
        """The scale of all samples together; channels that never change keep theirs."""
        count, total, squares = 0, np.zeros(()), np.zeros(())
        for each in series:
            wide = each.astype(np.float64)
            count, total, squares = count + len(wide), total + wide.sum(0), squares + np.square(wide).sum(0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
        deviation[deviation < 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1.0
        return cls(tuple(mean.tolist()), tuple(deviation.tolist()))

    def __call__(self, series: Series) -> Series:
        """A series in this scale."""
        return ((series - np.array(self.mean)) / np.array(self.deviation)).astype(np.float32)


def stacked(series: Sequence[Series], length: int) -> Float[np.ndarray, "batch time channels"]:
    """Series side by side, those that are shorter with zeros behind them."""
    made = np.zeros((len(series), length, series[0].shape[1]), np.float32)
    for row, each in zip(made, series, strict=True):
        row[: len(each)] = each
    return made
