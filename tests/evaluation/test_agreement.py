"""Agreement of labellers: the tables of the papers, sklearn, and what must hold of any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from langwright.evaluation.agreement import agreement, cohen_kappa, fleiss_kappa

# 10 subjects, 14 raters, 5 categories: the worked example of Fleiss (1971) in its usual form, kappa 0.210.
FLEISS = "0 0 0 0 14, 0 2 6 4 2, 0 0 3 5 6, 0 3 9 2 0, 2 2 8 1 1, 7 7 0 0 0, 3 2 6 3 0, 2 5 3 2 2, 6 5 2 1 0, 0 2 2 3 7"


def test_by_hand() -> None:
    """Cohen: 20 yes-yes, 15 no-no, 5 and 10 apart: observed 0.7, expected 0.5, kappa 0.4."""
    first, second = "y" * 20 + "y" * 5 + "n" * 10 + "n" * 15, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    units = [[c for c, n in enumerate(map(int, row.split())) for _ in range(n)] for row in FLEISS.split(",")]
    assert fleiss_kappa(units) == pytest.approx(0.210, abs=5e-4)
    # Two units of two labels, one of three: agreements 1, 0 and 1/3; shares 4/7 and 3/7.
    assert fleiss_kappa(["aa", "ab", "abb"]) == pytest.approx((4 / 9 - 25 / 49) / (1 - 25 / 49))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_sklearn(labels: list[tuple[str, str]]) -> None:
    first, second = [a for a, _ in labels], [b for _, b in labels]
    kappa = cohen_kappa(first, second)
    if len({*first, *second}) == 1:
        assert kappa is None
    else:
        assert kappa == pytest.approx(cohen_kappa_score(first, second))
    fleiss = fleiss_kappa(labels)
    assert (fleiss is None) == (kappa is None)
    assert fleiss is None or fleiss <= kappa + 1e-12  # which pools the habits, as Scott's pi does


def test_of_people() -> None:
    """Two have Cohen's kappa over what both labelled; more have Fleiss' over all that two have."""
    anna, ben, carla = {1: "a", 2: "b", 3: "a", 4: "b"}, {2: "b", 3: "b", 4: "b", 5: "a"}, {1: "a", 9: "a"}
    found = agreement({"anna": anna, "ben": ben})
    assert (found["statistic"], found["units"]) == ("cohen", 3)
    assert found["kappa"] == pytest.approx(cohen_kappa("bab", "bbb"))
    found = agreement({"anna": anna, "ben": ben, "carla": carla})
    assert (found["statistic"], found["units"]) == ("fleiss", 4)
    assert found["kappa"] == pytest.approx(fleiss_kappa(["aa", "bb", "ab", "bb"]))
    assert [(row["labellers"], row["units"]) for row in found["pairs"]] == [
        (["anna", "ben"], 3),
        (["anna", "carla"], 1),
    ]
    assert found["pairs"][0]["equal"] == pytest.approx(2 / 3)
    for alone in ({}, {"anna": anna}, {"anna": {1: "a"}, "ben": {2: "a"}}):
        assert (agreement(alone)["kappa"], agreement(alone)["units"]) == (None, 0)
