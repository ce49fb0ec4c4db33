"""Bootstrap intervals beside scipy's."""

import numpy as np
from scipy import stats

from langwright.evaluation.tasks.scores import intervals


def test_intervals_are_those_of_scipy() -> None:
    right = (np.random.default_rng(1).random(400) < 0.8).tolist()
    found = intervals(
        lambda truth, said: {"accuracy": float(np.mean([a == b for a, b in zip(truth, said, strict=True)]))},
        [True] * 400,
        right,
        resamples=2000,
    )
    theirs = stats.bootstrap(
        (np.array(right, float),), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    np.testing.assert_allclose(found["accuracy"], [theirs.low, theirs.high], atol=0.006)


def test_a_metric_that_a_sample_leaves_undefined_has_the_interval_of_the_others() -> None:
    answers = iter([0.5, float("nan"), 0.7])
    assert intervals(lambda *_: {"auroc": next(answers)}, [0], [0], resamples=3)["auroc"] == [0.505, 0.695]
