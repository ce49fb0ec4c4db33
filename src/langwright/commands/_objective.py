"""How texts become what a model learns from: by the objective of a recipe, or the one a model was pretrained by."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from langwright.base.errors import UserError
from langwright.base.files import read_object
from langwright.data.pieces import Framing
from langwright.data.reading import Continuing, Noisy, Reading
from langwright.models.families import LEARNERS
from langwright.models.folder import RECORD, OpenedFolder
from langwright.objectives.language import NextSentence, TokenPrediction
from langwright.text.tokenizer import Tokenizer
from langwright.training.new_model import framing_of
from langwright.training.recipe import PretrainRecipe

TEXTS = ("causal", "masked", "span", "denoise", "prefix")
"""Objectives that learn from texts; a model from elsewhere learns by the first that its family was made for."""

NOISE = ("noise", "mean_span", "whole_words", "permute", "delete", "rotate", "next_sentence")
"""Settings of an objective that a model goes on with."""


def reading_of(recipe: PretrainRecipe, frame: Callable[[Tokenizer], Framing]) -> Reading:
    """How the objective of a recipe reads texts. frame: what stands around one."""
    context = recipe.context
    if recipe.objective == "causal":
        return Continuing(context, recipe.crossing, recipe.packing)
    return Noisy(
        recipe.objective, context, frame, recipe.noise, recipe.mean_span, recipe.whole_words, recipe.permute,
        recipe.delete, recipe.rotate, recipe.packing, recipe.next_sentence,
    )  # fmt: skip


def own_objective(opened: OpenedFolder) -> PretrainRecipe:
    """The objective that a model was pretrained by and its noise, or what its family was made for.

    Raises:
        UserError: The model does not predict texts.
    """
    record = read_object(opened.path / RECORD, "the record of the model", optional=True)
    found = record.get("objective", record.get("recipe"))
    told: dict[str, Any] = found if isinstance(found, dict) else {}
    family, task = opened.family, opened.task
    made_for = [o for o in TEXTS if family is LEARNERS[o][0]] + [o for o in TEXTS if family in LEARNERS[o]]
    name = told.get("objective", next(iter(made_for), "seq2seq"))
    if name == "seq2seq" and family in LEARNERS[name]:
        raise UserError(f"{opened.path}: a model of pairs does not predict texts; --task translate goes on with pairs")
    if task not in (("masked", "pretraining") if name == "masked" else ("language",)):
        raise UserError(f'{opened.path}: a {family.name} model with the head "{task}" does not predict texts')
    noise = {field: told[field] for field in NOISE if field in told} | {"next_sentence": task == "pretraining"}
    return PretrainRecipe(objective=name, **noise)


def own_reading(opened: OpenedFolder, learns: PretrainRecipe, **settings: Any) -> Reading:
    """How the objective of a model reads texts; see `own_objective`. settings: of the recipe besides."""
    return reading_of(
        replace(learns, **settings), lambda tokenizer: framing_of(opened.family.name, opened.config, tokenizer)
    )


def predictions(recipe: PretrainRecipe, z_loss: float, compiled: bool, smoothing: float = 0.0) -> TokenPrediction:
    """What is lowered."""
    return (NextSentence if recipe.next_sentence else TokenPrediction)(z_loss, compiled, smoothing)


def objective_record(recipe: PretrainRecipe) -> dict[str, Any]:
    """What langwright.json says of an objective, so that a tuned model goes on by it too."""
    return {field: getattr(recipe, field) for field in ("objective", *NOISE)}
