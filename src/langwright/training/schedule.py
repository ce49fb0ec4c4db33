"""Learning rates over a run."""

import math

from langwright.training.recipe import TrainingRecipe


def learning_rate_factor(recipe: TrainingRecipe, step: int, steps: int) -> float:
    """Of the peak, in step `step` (from 0) of `steps`: warm-up, then decay; the last step has almost reached `final`.

    "linear" and "cosine" fall from the peak at once; "trapezoid" stays there and falls over the last `decay` of a run.
    """
    done = (step + 1) / (steps + 1)
    if done < recipe.warmup:
        return done / recipe.warmup
    fall = recipe.decay if recipe.schedule == "trapezoid" else 1 - recipe.warmup
    left = min(1.0, (1 - done) / fall) if fall else 1.0
    shape = (1 - math.cos(math.pi * left)) / 2 if recipe.schedule == "cosine" else left
    return recipe.final + (1 - recipe.final) * shape
