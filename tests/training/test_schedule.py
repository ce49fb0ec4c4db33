"""Learning rates, plans and recipes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base.errors import UserError
from langwright.training.plan import REPLAN_AT, Plan
from langwright.training.recipe import FinetuneRecipe, PretrainRecipe, TrainingRecipe
from langwright.training.schedule import Schedule


def test_linear_and_cosine_by_hand() -> None:
    linear = Schedule("linear", warmup=0.2, final=0.1)
    assert linear.factor(0, 9) == pytest.approx(0.5)  # a tenth of the way in, half of the warm-up
    assert linear.factor(1, 9) == pytest.approx(1.0)
    assert linear.factor(5, 9) == pytest.approx(0.1 + 0.9 * 0.5)
    assert linear.factor(8, 9) == pytest.approx(0.1 + 0.9 * 0.1 / 0.8)
    cosine = Schedule("cosine", warmup=0.0)
    assert cosine.factor(4, 9) == pytest.approx(0.5)
    assert cosine.factor(0, 9) == pytest.approx((1 + math.cos(math.pi / 10)) / 2)


def test_trapezoid_is_flat_then_falls_to_nothing() -> None:
    trapezoid = Schedule("trapezoid", warmup=0.1, decay=0.5)
    factors = [trapezoid.factor(step, 99) for step in range(99)]
    assert factors[10:49] == [1.0] * 39
    assert factors[74] == pytest.approx(0.5)
    assert factors[98] == pytest.approx(0.02)


@given(st.sampled_from(["linear", "cosine", "trapezoid"]), st.integers(1, 300), st.floats(0, 0.4), st.floats(0, 0.6))
def test_factors_rise_then_fall_within_bounds(kind: str, steps: int, warmup: float, decay: float) -> None:
    schedule = Schedule(kind, warmup, decay, final=0.0)  # type: ignore[arg-type]
    factors = [schedule.factor(step, steps) for step in range(steps)]
    assert all(0 < f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_a_plan_follows_the_clock() -> None:
    plan = Plan(steps=100, budget=100.0)
    assert not plan.refit(1, elapsed=0.01 * 100, step_seconds=1.0, reserve=0.0)  # before the first moment
    assert plan.refit(5, elapsed=12.0, step_seconds=2.0, reserve=8.0)
    assert plan.steps == 5 + 40
    assert plan.events == [(5, 45, 12.0)]
    assert not plan.refit(6, elapsed=14.0, step_seconds=9.0, reserve=8.0)  # between moments nothing changes
    assert plan.refit(30, elapsed=99.9, step_seconds=2.0, reserve=8.0)
    assert plan.steps == 30  # out of time: done
    early = Plan(steps=7, budget=100.0)
    assert not early.refit(6, elapsed=1.0, step_seconds=1.0, reserve=0.0)
    assert early.refit(7, elapsed=2.0, step_seconds=1.0, reserve=0.0)  # steps ran out, time did not
    assert early.steps == 105
    assert len(REPLAN_AT) == len(set(REPLAN_AT))


def test_a_plan_without_budget_stays() -> None:
    plan = Plan(steps=100)
    assert not plan.refit(50, elapsed=1e6, step_seconds=1.0, reserve=0.0)
    assert plan.steps == 100


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0), ("micro_batch", 0), ("learning_rate", 0.0), ("muon_learning_rate", 0.0), ("warmup", 1.5),
        ("decay", 0.99), ("beta1", -0.1), ("clip", -1.0), ("steps", "0 steps"), ("steps", "10m"),
        ("budget", "10 steps"), ("save_every", "0 steps"), ("log_every", "2 epochs"), ("keep", 0),
        ("validation_windows", 0), ("weight_decay", -1.0), ("seed", -1), ("beta1", 1.0), ("beta2", 1.0),
        ("learning_rate", math.inf), ("learning_rate", math.nan), ("weight_decay", math.inf), ("clip", math.nan),
    ],
)  # fmt: skip
def test_recipes_refuse_values_that_make_no_sense(field: str, value: object) -> None:
    with pytest.raises(UserError) as error:
        TrainingRecipe(**{field: value})
    assert "\n" not in str(error.value)


def test_recipes_refuse_shapes_that_make_no_sense() -> None:
    for made in (lambda: PretrainRecipe(depth=0), lambda: PretrainRecipe(context=1), lambda: FinetuneRecipe(context=1)):
        with pytest.raises(UserError, match="must be at least"):
            made()
