"""What each representation can see of a text, and scores by hand."""

import pytest

from langwright.baselines.classifiers import Representation, commonest, scores, word_classifier


@pytest.mark.parametrize(
    ("representation", "seen"),
    [("one-hot", {"words"}), ("bag-of-words", {"words", "counts", "pairs"})],
)
def test_what_is_seen(representation: Representation, seen: set[str]) -> None:
    kinds = {
        "words": (["good film", "bad film"], ["a good one", "a bad one"]),
        "counts": (["ha ha ha ha film", "ha film film film"], ["ha ha ha film", "ha film film film film"]),
        "pairs": (["x not y , z", "not x , y z"], ["x not y , z", "not x , y z"]),
    }
    for kind, (texts, others) in kinds.items():
        model = word_classifier(texts * 3, ["1", "2"] * 3, representation)
        apart = model.predict_proba(others)[:, 0]
        assert (apart[0] - apart[1] > 0.05) == (kind in seen), kind


def test_scores_by_hand() -> None:
    """Of a: precision 2/3, recall 2/2, F1 0.8; of b: 1/1, 1/2, F1 2/3; c is never said, F1 0."""
    assert scores(list("aabbc"), list("aabab")) == {
        "accuracy": pytest.approx(3 / 5),
        "macro_f1": pytest.approx((0.8 + 0.5 + 0) / 3),
    }
    assert commonest(list("cbbcca")) == "c"
    assert commonest(list("cbbc")) == "b"
