"""Which of many answers are kept: the best of each prompt, the best share of all, or all above a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Keeping:
    """Which answers are kept.

    Args:
        share: the share of all answers that are kept, such as 0.1, the best ones whatever their prompts (rejection
            sampling); the best answer to each prompt unless given.
        threshold: keep all answers with at least this reward instead.
    """

    share: float | None = None
    threshold: float | None = None

    def choose(self, rewards: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
        """The kept answers, as numbers of prompt and answer, in their order; of equal ones the first.

        rewards: of the answers to each prompt.
        """
        every = [(row, number) for row, values in enumerate(rewards) for number in range(len(values))]
        if self.threshold is not None:
            return [(row, number) for row, number in every if rewards[row][number] >= self.threshold]
        if self.share is not None:
            order = sorted(every, key=lambda at: -rewards[at[0]][at[1]])
            return sorted(order[: max(1, round(self.share * len(every)))])
        return [(row, int(np.argmax(values))) for row, values in enumerate(rewards)]
