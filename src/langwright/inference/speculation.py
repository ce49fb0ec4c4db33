"""Guesses of what comes next, read beside the newest token and kept as far as they are what the model draws.

A pass over a few tokens takes about as long as one over a single token, since both read all weights (Leviathan et al.,
2023). The engine draws every token from the model's own distribution, by the generator of its text, whether it was
guessed or not; so the text is the one that it would be without guesses, at any temperature.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from langwright.inference.continuation import Continuation
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling

LONGEST, SHORTEST = 4, 2
"""Tokens at the end of a text that are looked up in it."""
TRIED, WORTH, REST = 24, 0.25, 48
"""After so many guesses of which less than this share was right, none for so many tokens."""


@runtime_checkable
class Speculation(Protocol):
    """What guesses."""

    def guess(self, texts: Sequence[Continuation], most: int) -> list[list[int]]:
        """The tokens that may follow each text, at most so many."""
        ...


class PromptLookup:
    """What followed the last time when the text went as it does now (Saxena, 2023)."""

    def guess(self, texts: Sequence[Continuation], most: int) -> list[list[int]]:
        """The tokens after the latest earlier occurrence of the last few, of the most that occurred."""
        return [_followed(text.ids, most) for text in texts]


class DraftModel:
    """What a smaller model with the same tokens finds likeliest.

    Args:
        engine: an `Engine` of that model; what it has read of a text is found again by its prefix cache.
    """

    def __init__(self, engine: Any):
        self._engine = engine

    def guess(self, texts: Sequence[Continuation], most: int) -> list[list[int]]:
        """Its greedy continuations, as far as its context goes."""
        engine, context, handles = self._engine, self._engine.model.context, {}
        for row, text in enumerate(texts):
            room = most if context is None else min(most, context - len(text.ids))
            if room > 0:
                asked = Request(text.ids, Sampling(temperature=0), room, salt=text.owner.request.salt)
                handles[row] = engine.add(asked)
        engine.finish(handles.values())
        return [handles[row].completions[0].ids if row in handles else [] for row in range(len(texts))]


def _followed(ids: Sequence[int], most: int) -> list[int]:
    for size in range(min(LONGEST, len(ids) - 1), SHORTEST - 1, -1):
        last = ids[-size:]
        for start in range(len(ids) - size - 1, -1, -1):
            if ids[start] == last[0] and ids[start : start + size] == last:
                return list(ids[start + size : start + size + most])
    return []
