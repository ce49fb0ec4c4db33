"""Settings tried in short runs of fine-tuning, the best of which is used."""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from langwright.base.console import say
from langwright.base.errors import UserError, suggest
from langwright.base.files import read_object, write_json
from langwright.base.value_types import from_texts
from langwright.training.recipe import FREE, FinetuneRecipe
from langwright.training.trainer import MODEL_FILES, Result

SHARE = 0.25
"""The length of a trial, of that of the run."""
FOLDER, TABLE = "search", "search.json"
FIXED = ("task", "validation", "split", "steps", "budget", "parallel", *FREE)
"""Settings that are not searched: what is measured, and how long and how a run is done."""

LOSSES: Mapping[str | None, tuple[str, int]] = {
    None: ("loss_nats_per_token", -1), "validation_loss": ("loss", -1),
}  # fmt: skip
"""What chooses weights -> the name of the loss that says the same, the lower the better."""

R = TypeVar("R", bound=FinetuneRecipe)


def searched(
    asked: Sequence[str],
    recipe: R,
    out: Path,
    run: Callable[[R, Path], tuple[Result, str | None]],
    extend: bool = False,
) -> tuple[R, Result | None]:
    """Try all combinations of settings in runs of a quarter of the length, and choose by the held-out rows.

    Each trial is an ordinary run in OUT/search/NAME, so that one that was stopped goes on, and a finished one is not
    repeated. The table is written to OUT/search/search.json.

    Args:
        asked: a setting and its values each, such as rank=1,4,16.
        recipe: the others.
        out: the folder of the run.
        run: does a run in a folder; it gives the metric that chooses weights too, or None for the loss.
        extend: whether the run is to be longer than it was, which is refused.

    Returns:
        The recipe with the best settings, and a result where a signal stopped a trial.

    Raises:
        UserError: There is no such setting, a value does not fit, or the run in the folder was begun otherwise.
    """
    excluded = {"extend": extend, "budget": recipe.budget_seconds(), "parallel": recipe.parallel != "none"}
    if flags := [flag for flag, given in excluded.items() if given]:
        raise UserError(f"--{flags[0]}: does not go with --search; give the setting that was chosen")
    choices, length = parse(asked, type(recipe)), recipe.length()
    part = length.value * SHARE if length.unit == "epochs" else max(1, round(length.value * SHARE))
    short = replace(recipe, steps=str(replace(length, value=part)))
    combinations = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    candidates = [replace(short, **settings) for settings in combinations]  # all are checked before one runs
    names = [" ".join(f"{setting}={value}" for setting, value in settings.items()) for settings in combinations]
    before = read_object(out / FOLDER / TABLE, "the table of the search", optional=True)
    if before and {trial["name"] for trial in before["trials"]} != set(names):
        tried = "; ".join(sorted(trial["name"] for trial in before["trials"]))
        raise UserError(f"--search: the run in {out} was chosen among {tried}; give these, or another folder")
    if not before and any((out / name).exists() for name in ("checkpoints", *MODEL_FILES)):
        raise UserError(f"--search: the run in {out} began without it; choose another folder")
    trials: list[dict[str, Any]] = []
    metric, sign = "", 1
    for number, (name, settings, candidate) in enumerate(zip(names, combinations, candidates, strict=True), start=1):
        say(f"search: {number} of {len(combinations)}, {name}, for {candidate.steps}")
        result, best = run(candidate, out / FOLDER / name.replace(" ", ",").replace("/", "_"))
        if result.stopped is not None or result.held_out is None:
            return recipe, result
        metric, sign = LOSSES.get(best, (str(best).removeprefix("validation_"), 1))
        loss = result.held_out.get("loss", 0.0)  # between equals
        trials.append({"name": name, "settings": settings, metric: float(result.held_out[metric]), "loss": loss})
    trials.sort(key=lambda trial: (-sign * trial[metric], trial["loss"]))
    for trial in trials:
        say(f"search: {metric} {trial[metric]:.4f} with {trial['name']}")
    say(f"search: {trials[0]['name']} is used for {length}, chosen by the held-out rows alone")
    write_json(out / FOLDER / TABLE, {"metric": metric, "trials": trials})
    return replace(recipe, **trials[0]["settings"]), None


def parse(asked: Sequence[str], kind: type[FinetuneRecipe]) -> dict[str, list[Any]]:
    """The values to try of each setting; UserError names what is unknown, twice there, or of another type."""
    kinds = typing.get_type_hints(kind)
    known = [field.name for field in fields(kind) if field.init and field.name not in FIXED]
    found: dict[str, list[Any]] = {}
    for text in asked:
        name, _, values = text.partition("=")
        field = name.strip().replace("-", "_")
        if field not in known:
            why = "is not searched" if field in kinds else "is no setting of finetune"
            raise UserError(f'--search {text}: "{name}" {why}{suggest(field, known)}')
        if field in found:
            raise UserError(f'--search {text}: "{name}" is there twice')
        parts = [value.strip() for value in values.split(",") if value.strip()]
        if len(set(parts)) < max(2, len(parts)):
            raise UserError(f"--search {text}: two values or more are tried, each once, such as {name}=1,4")
        found[field] = [from_texts(kinds[field], [part], f"--search {name}") for part in parts]
    return found
