"""How far labellers agree beyond chance: Cohen's kappa of two, Fleiss' kappa of more."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

Labels = Mapping[Hashable, Hashable]
"""What one labeller says of each unit, by the unit."""


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two labellers beyond what each one's own habits bring about by chance.

    Args:
        first: a category for each unit.
        second: that of the other labeller.

    Returns:
        (observed - expected) / (1 - expected); None where both always say the same one thing.

    Source: Cohen, A coefficient of agreement for nominal scales (1960).
    """
    if not first or len(first) != len(second):
        raise ValueError("kappa is of as many categories of each labeller, and of at least one")
    units = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / units
    habits = Counter(first), Counter(second)
    expected = sum(habits[0][category] * habits[1][category] for category in habits[0]) / units**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def fleiss_kappa(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Agreement of any number of labellers, who need not be the same for each unit.

    Args:
        units: the categories that each unit was given, two or more. Fleiss has equally many for each; where their
            number differs, the agreement of a unit is that of its own pairs of labels, and all units count the same.

    Returns:
        As `cohen_kappa`, with chance from the shares of the categories among all labels.

    Source: Fleiss, Measuring nominal scale agreement among many raters (1971).
    """
    if not units or any(len(labels) < 2 for labels in units):
        raise ValueError("kappa is of units with two labels or more, and of at least one")
    counts = [Counter(labels) for labels in units]
    pairs = [sum(n * (n - 1) for n in count.values()) / (count.total() * (count.total() - 1)) for count in counts]
    shares: Counter[Hashable] = sum(counts, Counter())
    expected = sum((n / shares.total()) ** 2 for n in shares.values())
    return None if expected == 1 else (sum(pairs) / len(pairs) - expected) / (1 - expected)


def agreement(labels: Mapping[str, Labels]) -> dict[str, Any]:
    """How far labellers agree about the units that several of them have labelled.

    Args:
        labels: of each labeller, by name.

    Returns:
        `statistic` (cohen for two labellers, fleiss for more), `kappa`, `units` that have two labels or more, and
        `pairs`: for each two labellers with units in common their number, the share of equal labels and Cohen's kappa.
    """
    units = {unit: None for given in labels.values() for unit in given}
    shared = [[given[unit] for given in labels.values() if unit in given] for unit in units]
    shared = [given for given in shared if len(given) > 1]
    pairs = []
    for first, second in combinations(labels, 2):
        common = [unit for unit in labels[first] if unit in labels[second]]
        if common:
            both = [labels[first][unit] for unit in common], [labels[second][unit] for unit in common]
            equal = sum(a == b for a, b in zip(*both, strict=True)) / len(common)
            row = {"labellers": [first, second], "units": len(common), "equal": equal}
            pairs.append({**row, "kappa": cohen_kappa(*both)})
    of_two = len(labels) == 2
    kappa = None if not shared else pairs[0]["kappa"] if of_two else fleiss_kappa(shared)
    return {"statistic": "cohen" if of_two else "fleiss", "kappa": kappa, "units": len(shared), "pairs": pairs}
