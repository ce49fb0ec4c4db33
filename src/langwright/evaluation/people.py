"""What people's judgements say of the people, and of the models whose answers they judged."""

from collections import Counter
from collections.abc import Iterable
from itertools import permutations
from typing import Any

from langwright.corpora.judgements import Judgement
from langwright.evaluation.agreement import agreement
from langwright.evaluation.bradley_terry import Ranked, compare


def report(judgements: Iterable[Judgement], resamples: int = 1000) -> dict[str, Any]:
    """Who labelled how much, how far they agree, and which models they prefer.

    Args:
        judgements: the last word of each person on each item.
        resamples: of the bootstrap.

    Returns:
        `labellers` (name, labelled, skipped, median seconds), `rank` and `thumbs` (see `agreement`: units are the pairs
        of answers of an item, with the categories better, worse and tie, each counted in both directions so that the
        order of the answers in the data has no influence; or single answers, good or bad), `scores` (see
        `compare`), and `good` (the share of good answers of each model).
    """
    said = list(judgements)
    marked = {ask: [(one, one.marks) for one in said if one.ask == ask and one.marks] for ask in ("rank", "thumbs")}
    pairs: dict[str, dict[Any, Any]] = {}
    for one, marks in marked["rank"]:
        for i, j in permutations(range(len(marks)), 2):
            pairs.setdefault(one.labeller, {})[one.item, i, j] = (marks[i] > marks[j]) - (marks[i] < marks[j])
    units: dict[str, dict[Any, Any]] = {}
    good: dict[str, Counter[int]] = {}
    for one, marks in marked["thumbs"]:
        for place, mark in enumerate(marks):
            units.setdefault(one.labeller, {})[one.item, place] = mark
            for model in one.models[place]:
                good.setdefault(model, Counter())[mark] += 1
    rankings = [
        Ranked(one.item, {model: mark for mark, models in zip(marks, one.models, strict=True) for model in models})
        for one, marks in marked["rank"]
    ]
    return {
        "labellers": [_work(name, [one for one in said if one.labeller == name]) for name in _names(said)],
        "rank": _halved(agreement(pairs)),
        "thumbs": agreement(units),
        "scores": compare([ranking for ranking in rankings if len(ranking.ranks) > 1], resamples),
        "good": [{"model": m, "answers": n.total(), "good": n[1] / n.total()} for m, n in sorted(good.items())],
    }


def _halved(found: dict[str, Any]) -> dict[str, Any]:
    """An agreement with the number of pairs, of which each was counted in both directions."""
    pairs = [{**row, "units": row["units"] // 2} for row in found["pairs"]]
    return {**found, "units": found["units"] // 2, "pairs": pairs}


def _names(said: list[Judgement]) -> list[str]:
    return list(dict.fromkeys(one.labeller for one in said))


def _work(name: str, said: list[Judgement]) -> dict[str, Any]:
    """What one person has done."""
    seconds = sorted(one.seconds for one in said if not one.skipped)
    median = seconds[len(seconds) // 2] if seconds else None
    return {"labeller": name, "labelled": len(seconds), "skipped": len(said) - len(seconds), "seconds": median}
