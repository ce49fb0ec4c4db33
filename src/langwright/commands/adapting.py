"""From the fields of a recipe to a method of adaptation."""

from collections.abc import Callable
from dataclasses import fields

from langwright.adaptation.lora import LoRA
from langwright.adaptation.method import Method
from langwright.adaptation.targets import ALL_LINEAR, Targets
from langwright.base.errors import UserError
from langwright.training.recipe import FinetuneRecipe


def method_of(recipe: FinetuneRecipe) -> Method | None:
    """The method that a recipe asks for; None for full tuning. UserError for a field that another method has."""
    own = SETTINGS.get(recipe.method, ())
    for field in fields(recipe):
        others = [method for method, names in SETTINGS.items() if field.name in names]
        if others and field.name not in own and getattr(recipe, field.name) != field.default:
            flag = "--" + field.name.replace("_", "-")
            raise UserError(f"{flag} goes with --method {' or '.join(others)}, not with {recipe.method}")
    return MAKERS[recipe.method](recipe) if recipe.method in MAKERS else None


def _lora(recipe: FinetuneRecipe) -> LoRA:
    return LoRA(
        rank=recipe.rank,
        alpha=recipe.alpha,
        dropout=recipe.dropout,
        target=_targets(recipe.target),
        bias=recipe.bias,
        modules_to_save=() if recipe.whole is None else _words(recipe.whole),
        rslora=recipe.rslora,
        dora=recipe.dora,
        plus=recipe.plus,
    )


def _targets(words: str | None) -> Targets | None:
    """Names between commas, "all-linear", or a regular expression, which has letters that no name has."""
    if words is None or words == ALL_LINEAR or set(words) & set("*+?|()[]\\^$"):
        return words
    return _words(words)


def _words(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())


MAKERS: dict[str, Callable[[FinetuneRecipe], Method]] = {"lora": _lora}
SETTINGS: dict[str, tuple[str, ...]] = {
    "lora": ("rank", "alpha", "target", "dropout", "bias", "whole", "rslora", "dora", "plus"),
}
"""The fields of a recipe that belong to a method."""
