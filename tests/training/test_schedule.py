"""Learning rates, plans and recipes."""

import math
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.training.optimizers import learning_rate_factor
from langwright.training.progress import Progress
from langwright.training.recipe import FinetuneRecipe, PretrainRecipe, TrainingRecipe
from refusals import refused

Kind = Literal["linear", "cosine", "trapezoid", "halving"]


def factors(steps: int, kind: Kind, **changes: float) -> list[float]:
    recipe = TrainingRecipe(schedule=kind, **changes)  # type: ignore[arg-type]
    return [learning_rate_factor(recipe, step, steps) for step in range(steps)]


def test_linear_and_cosine_by_hand() -> None:
    linear = factors(9, "linear", warmup=0.2, final=0.1)
    assert linear[:2] == pytest.approx([0.5, 1.0])  # a tenth of the way in, half of the warm-up
    assert linear[5] == pytest.approx(0.1 + 0.9 * 0.5)
    assert linear[8] == pytest.approx(0.1 + 0.9 * 0.1 / 0.8)
    cosine = factors(9, "cosine", warmup=0.0)
    assert cosine[4] == pytest.approx(0.5)
    assert cosine[0] == pytest.approx((1 + math.cos(math.pi / 10)) / 2)


def test_trapezoid_is_flat_then_falls_to_nothing() -> None:
    found = factors(99, "trapezoid", warmup=0.1, decay=0.5)
    assert found[10:49] == [1.0] * 39
    assert found[74] == pytest.approx(0.5)
    assert found[98] == pytest.approx(0.02)


def test_halving_is_that_of_zaremba() -> None:
    """13 epochs of 7 steps: four at the peak, then half of it, a quarter, and so on."""
    found = factors(91, "halving", warmup=0.0, decay=9 / 13, halvings=9)
    assert found == [0.5 ** max(0, epoch - 3) for epoch in range(13) for _ in range(7)]


@given(
    st.sampled_from(["linear", "cosine", "trapezoid", "halving"]),
    st.integers(1, 300),
    st.floats(0, 0.4),
    st.floats(0, 0.6),
)
def test_factors_rise_then_fall_within_bounds(kind: Kind, steps: int, warmup: float, decay: float) -> None:
    found = factors(steps, kind, warmup=warmup, decay=decay)
    assert all(0 < f <= 1 for f in found)
    top = found.index(max(found))
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_a_plan_follows_the_clock() -> None:
    now = Progress(step=1, steps=100)
    assert not now.refit(100.0, elapsed=1.0, step_seconds=1.0, reserve=0.0)  # before the first moment
    now.step = 5
    assert now.refit(100.0, elapsed=12.0, step_seconds=2.0, reserve=8.0)
    assert now.steps == 5 + 40
    assert now.plan == [(5, 45, 12.0)]
    assert not now.refit(100.0, elapsed=14.0, step_seconds=9.0, reserve=8.0)  # between moments nothing changes
    now.step = 30
    assert now.refit(100.0, elapsed=99.9, step_seconds=2.0, reserve=8.0)
    assert now.steps == 30  # out of time: done


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0), ("micro_batch", 0), ("learning_rate", 0.0), ("muon_learning_rate", 0.0), ("warmup", 1.5),
        ("decay", 0.99), ("beta1", -0.1), ("clip", -1.0), ("steps", "0 steps"), ("steps", "10m"), ("steps", ""),
        ("budget", "10 steps"), ("save_every", "0 steps"), ("log_every", "2 epochs"), ("keep", 0),
        ("validation_windows", 0), ("weight_decay", -1.0), ("seed", -1), ("beta1", 1.0), ("beta2", 1.0),
        ("learning_rate", math.inf), ("learning_rate", math.nan), ("weight_decay", math.inf), ("clip", math.nan),
    ],
)  # fmt: skip
def test_recipes_refuse_values_that_make_no_sense(field: str, value: Any) -> None:
    with refused(f"--{field.replace('_', '-')} "):
        TrainingRecipe(**{field: value})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (PretrainRecipe, "depth", 0), (PretrainRecipe, "context", 1), (PretrainRecipe, "width", 65),
        (PretrainRecipe, "dropout", 1.0), (PretrainRecipe, "balance", -1.0), (FinetuneRecipe, "context", 1),
        (FinetuneRecipe, "unfreeze_every", "0"), (PretrainRecipe, "depth", 10**20), (PretrainRecipe, "context", 10**20),
        (PretrainRecipe, "vocabulary", 10**20), (PretrainRecipe, "width", 64 * 10**20),
    ],
)  # fmt: skip
def test_recipes_refuse_shapes_that_make_no_sense(kind: Any, field: str, value: Any) -> None:
    with refused(f"--{field.replace('_', '-')} "):
        kind(**{field: value})
