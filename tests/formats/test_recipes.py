"""The recipes that ship are read, mean what they say, and train."""

import inspect
import json
from dataclasses import fields
from pathlib import Path

import pytest

from langwright.base.arguments import read_recipe
from langwright.cli import parse
from langwright.commands import pretrain
from langwright.commands.demo import demo
from langwright.training.recipe import PretrainRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(RECIPES.glob("*.yaml"))


def read(name: str) -> PretrainRecipe:
    return PretrainRecipe(**read_recipe(RECIPES / name, PretrainRecipe))


def test_all_are_there() -> None:
    assert [path.name for path in SHIPPED] == [
        "ptb-lstm-small.yaml",
        "python-stdlib.yaml",
        "tiny-shakespeare-10m.yaml",
        "tiny-shakespeare.yaml",
    ]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_command_in_a_recipe_is_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    (line,) = (line for line in path.read_text().splitlines() if "langwright pretrain" in line)
    call = parse(line.removeprefix("#").split()[1:])
    assert call.keywords["recipe"] == read(path.name)
    assert parse([*line.removeprefix("#").split()[1:], "--depth", "1"]).keywords["recipe"].depth == 1


def test_the_recipe_of_the_demo_is_what_the_demo_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Reached(BaseException):
        pass

    seen: list[tuple[str, PretrainRecipe]] = []

    def run(corpus: str, out: Path, recipe: PretrainRecipe) -> None:
        seen.append((corpus, recipe))
        raise Reached

    monkeypatch.setattr(pretrain, "run", run)
    defaults = {name: p.default for name, p in inspect.signature(demo).parameters.items()}
    with pytest.raises(Reached):
        demo(tmp_path, defaults["budget"], defaults["depth"], defaults["corpus"])
    assert seen == [("python-stdlib", read("python-stdlib.yaml"))]


def test_the_recipe_of_tiny_shakespeare() -> None:
    recipe = read("tiny-shakespeare.yaml")
    assert (recipe.split, recipe.tokenizer, recipe.context) == ("0.9", "characters", 256)
    assert (recipe.family, recipe.depth, recipe.width, recipe.optimizer) == ("nanochat", 4, 192, "muon")


def test_a_recipe_trains(trained: Path, play: Path) -> None:
    """Tiny Shakespeare's, shortened to three steps (see conftest.py)."""
    record = json.loads((trained / "langwright.json").read_text())
    assert (record["steps"], record["context"]) == (3, 256)
    characters = len(play.read_text())
    held_out = characters - int(characters * 0.9)
    assert record["held_out"]["tokens"] == held_out + 1  # every character once, and the end of the text
    losses = [json.loads(line).get("loss") for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert losses[3] < losses[0]
    assert set(record["recipe"]) == {field.name for field in fields(PretrainRecipe)}
