"""Two small runs as the commands make them, for what is said of their files."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from langwright.base.arguments import read_recipe
from langwright.commands import finetune, pretrain
from langwright.commands.finetune import TuningRecipe
from langwright.training.recipe import PretrainRecipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text with lines, as a file."""
    rng = random.Random(0)
    words = ["thou", "art", "a", "weary", "king", "sweet", "prince", "and", "wherefore"]
    text = tmp_path_factory.mktemp("text") / "play.txt"
    text.write_text("\n".join(" ".join(rng.choices(words, k=8)) for _ in range(400)))
    return text


@pytest.fixture(scope="session")
def trained(play: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of the recipe for tiny Shakespeare, shortened: three steps over a small text."""
    recipe = PretrainRecipe(**read_recipe(RECIPES / "tiny-shakespeare.yaml", PretrainRecipe))
    short = replace(
        recipe, budget=None, steps="3 steps", dtype="float32", log_every="1 steps", evaluate_every="2 steps"
    )
    out = tmp_path_factory.mktemp("trained") / "model"
    assert pretrain.run(str(play), out, short).stopped is None
    return out


@pytest.fixture(scope="session")
def tuned(trained: Path, play: Path) -> Path:
    """The same model, tuned for a step on the same text."""
    out = trained.parent / "finetuned"
    recipe = TuningRecipe(steps="1 steps", dtype="float32", sample_every="0 steps")
    assert finetune.run(trained, str(play), out, recipe).stopped is None
    return out
