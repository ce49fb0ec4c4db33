"""Scores of answers against tables by hand."""

from math import exp, log

import pytest

from langwright.inference.request import Logprob
from langwright.pipelines.scorers import Answer, Scorer, normal
from refusals import refused

HALF, TENTH = log(0.5), log(0.1)
ANSWER = Answer(
    "Paris",
    # the likeliest token, one that the draw's rules took over a likelier one, and the likeliest again
    (
        Logprob(1, HALF, ((1, HALF), (2, log(0.25)))),
        Logprob(3, TENTH, ((4, log(0.6)), (3, TENTH))),
        Logprob(5, 0.0, ((5, 0.0),)),
    ),
    samples=("paris.", " Paris", "London", "PARIS"),
)


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        (Scorer("perplexity"), exp((HALF + TENTH) / 3)),
        (Scorer("quantile", alpha=0.0), 0.1),
        (Scorer("quantile", alpha=0.5), 0.5),
        (Scorer("margin"), (0.25 + 0 + 1) / 3),
        (Scorer("agreement"), 0.75),
    ],
)
def test_scores_by_hand(scorer: Scorer, expected: float) -> None:
    assert scorer.score(ANSWER) == pytest.approx(expected)
    assert scorer.score(Answer("")) == 0


def test_answers_are_compared_without_case_and_blanks() -> None:
    assert normal("  The\n Answer. ") == normal("the answer")
    assert normal("3.5") != normal("35")


def test_settings_out_of_range_are_refused() -> None:
    with refused("alpha"):
        Scorer(alpha=1.5)
    with refused("samples"):
        Scorer(samples=0)
