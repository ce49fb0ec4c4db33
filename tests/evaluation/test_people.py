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
    # In both directions, of better, worse and tie both say 3 3 2 of eight: observed 6/8, expected 22/64.
    assert (found["rank"]["units"], found["rank"]["statistic"]) == (4, "cohen")
    assert found["rank"]["kappa"] == pytest.approx((6 / 8 - 22 / 64) / (42 / 64))
    assert (found["thumbs"]["units"], found["thumbs"]["kappa"]) == (0, None)
    assert found["good"] == [{"model": "a", "answers": 1, "good": 1.0}, {"model": "b", "answers": 1, "good": 0.0}]
    (pair,) = found["scores"]["pairs"]
    assert (pair["comparisons"], pair["ties"], pair["win_rate"]) == (8, 2, 0.5)
    assert all(abs(model["score"]) < 1e-9 for model in found["scores"]["models"])
    nothing = report([])
    assert (nothing["labellers"], nothing["scores"], nothing["good"]) == ([], {"models": [], "pairs": []}, [])


@pytest.mark.parametrize("swapped", [0, 25])
def test_agreement_is_the_same_in_every_order_of_the_data(swapped: int) -> None:
    """The better answer stands first in the data, or behind in half of the rows; 49 of 50 pairs are judged alike."""
    usual = [(2, 1) if n < swapped else (1, 2) for n in range(50)]
    anna = [said(str(n), "anna", marks) for n, marks in enumerate(usual)]
    ben = [said(str(n), "ben", marks if n else marks[::-1]) for n, marks in enumerate(usual)]
    found = report(anna + ben, resamples=1)["rank"]
    (pair,) = found["pairs"]
    assert (found["units"], pair["units"], pair["equal"]) == (50, 50, 0.98)
    assert found["kappa"] == pytest.approx((0.98 - 0.5) / 0.5)
    carla = [said(str(n), "carla", marks) for n, marks in enumerate(usual)]
    assert report(anna + carla, resamples=1)["rank"]["kappa"] == 1
    # Of three people: 49 units agree, and one in a third of its pairs of labels.
    assert report(anna + ben + carla, resamples=1)["rank"]["kappa"] == pytest.approx(((49 + 1 / 3) / 50 - 0.5) / 0.5)
