"""Who is given what to label: each item to as many people as are asked for, and to nobody twice."""

import time
from collections.abc import Callable, Iterable

LEASE_SECONDS = 900.0
"""How long an item waits for the person whom it was given to, before another may have it."""


class Assignment:
    """The items that are left for each person.

    Args:
        items: their ids, in the order in which they are given out.
        overlap: how many people label each.
        clock: seconds.
    """

    def __init__(self, items: Iterable[str], overlap: int, clock: Callable[[], float] = time.monotonic):
        self._overlap, self._clock = overlap, clock
        self._seen: dict[str, set[str]] = {item: set() for item in items}
        self._done: dict[str, set[str]] = {item: set() for item in self._seen}
        self._held: dict[str, dict[str, float]] = {item: {} for item in self._seen}

    def note(self, item: str, labeller: str, skipped: bool) -> None:
        """Somebody has labelled an item, or skipped it and leaves it to others."""
        if item in self._seen:
            self._seen[item].add(labeller)
            (self._done[item].discard if skipped else self._done[item].add)(labeller)
            self._held[item].pop(labeller, None)

    def next(self, labeller: str) -> str | None:
        """The first item that is left for a person, which is theirs for a while; None where none is."""
        now = self._clock()
        for item, held in self._held.items():
            if labeller not in self._seen[item]:
                others = sum(since > now - LEASE_SECONDS for name, since in held.items() if name != labeller)
                if len(self._done[item]) + others < self._overlap:
                    held[labeller] = now
                    return item
        return None

    def left(self, labeller: str) -> int:
        """How many items nobody else has to have labelled enough before this person does."""
        return sum(labeller not in seen and len(self._done[item]) < self._overlap for item, seen in self._seen.items())
