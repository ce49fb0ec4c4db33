"""What judgements say: a small table by hand."""

from typing import Any

import pytest

from langwright.corpora.judgements import Judgement
from langwright.evaluation.people import report


def said(item: str, labeller: str, marks: tuple[int, ...] | None, **more: Any) -> Judgement:
    usual: dict[str, Any] = {
        "ask": "rank", "prompt": "p", "answers": ("x", "y"), "models": (("a",), ("b",)), "media": {},
        "order": (0, 1), "text": None, "seconds": 4.0, "time": "", "seed": 0,
    }  # fmt: skip
    return Judgement(item=item, labeller=labeller, marks=marks, **{**usual, **more})


def test_by_hand() -> None:
    """Two people, four pairs in common, equal in three; each model's wins and good answers counted."""
    judgements = [
        *(said(str(n), "anna", marks, seconds=float(n)) for n, marks in enumerate([(1, 2), (1, 2), (2, 1), (1, 1)], 1)),
        *(said(str(n), "ben", marks) for n, marks in enumerate([(1, 2), (2, 1), (2, 1), (1, 1)], 1)),
        said("5", "ben", None),
        said("6", "ben", (1, 0), ask="thumbs"),
        said("7", "anna", (1, 2), models=((), ())),  # nobody knows whose they are
    ]
    found = report(judgements, resamples=100)
    assert found["labellers"] == [
        {"labeller": "anna", "labelled": 5, "skipped": 0, "seconds": 3.0},
        {"labeller": "ben", "labelled": 5, "skipped": 1, "seconds": 4.0},
    ]
    # Of -1, 1, 0 anna says 2 1 1 and ben 1 2 1 of four: observed 3/4, expected 5/16.
    assert (found["rank"]["units"], found["rank"]["statistic"]) == (4, "cohen")
    assert found["rank"]["kappa"] == pytest.approx((3 / 4 - 5 / 16) / (11 / 16))
    assert (found["thumbs"]["units"], found["thumbs"]["kappa"]) == (0, None)
    assert found["good"] == [{"model": "a", "answers": 1, "good": 1.0}, {"model": "b", "answers": 1, "good": 0.0}]
    (pair,) = found["scores"]["pairs"]
    assert (pair["comparisons"], pair["ties"], pair["win_rate"]) == (8, 2, 0.5)
    assert all(abs(model["score"]) < 1e-9 for model in found["scores"]["models"])
    nothing = report([])
    assert (nothing["labellers"], nothing["scores"], nothing["good"]) == ([], {"models": [], "pairs": []}, [])
