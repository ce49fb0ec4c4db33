"""langwright pretrain: from raw text to a model folder."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.data.order import Layout
from langwright.data.texts import text_supply
from langwright.evaluation.in_training import held_out_likelihood, sample_of
from langwright.evaluation.likelihood import print_likelihood
from langwright.models.families import FAMILIES, LANGUAGE
from langwright.models.folder import new_model
from langwright.models.shapes import by_depth, preset
from langwright.objectives.losses import Causal
from langwright.planning.cost import training_flops_per_token
from langwright.planning.machine import measure
from langwright.training.checkpoints import decided_dtype
from langwright.training.recipe import PretrainRecipe
from langwright.training.report import write_report
from langwright.training.trainer import Job, Result, close, train


def pretrain(
    corpus: str,
    out: Path,
    recipe: PretrainRecipe = PretrainRecipe(),
    extend: bool = False,
    profile: bool = False,
    json: bool = False,
) -> int:
    """Train a model from raw text. The same command continues a run that was stopped, bit for bit.

    Args:
        corpus: a name (python-stdlib, tinyshakespeare, tinystories), a file, a folder, a glob, or hf:owner/name.
        out: the model folder; checkpoints and metrics.jsonl are in it too.
        recipe: how.
        extend: go on with a finished run, for longer.
        profile: write the share of time of each part of a training step into the report.
        json: print the result as JSON.
    """
    result = run(corpus, out, recipe, extend, profile)
    if result.held_out is not None:
        print_likelihood(result.held_out, "held-out text", json)
        if not result.already:
            write_report(out)
            say(f"wrote {out} (langwright generate {out}) and {out / 'report.html'}")
    return close(result, out)


def run(corpus: str, out: Path, recipe: PretrainRecipe, extend: bool = False, profile: bool = False) -> Result:
    """Pretrain; nothing is printed at the end."""
    started = time.monotonic()
    out = Path(out)

    def prepare(rank: int, world: int) -> Job:
        family, _ = shape(recipe, recipe.vocabulary)  # what does not fit is refused before the text is read
        machine = measure(recipe.device, decided_dtype(out, recipe.dtype), recipe.exact)
        layout = Layout(recipe.batch_size, recipe.seed, recipe.compile, rank, world)
        supply = text_supply(
            corpus, recipe.split, recipe.field, layout, recipe.context, recipe.crossing,
            kind=recipe.tokenizer, vocabulary=recipe.vocabulary, carries=FAMILIES[family].carries,
        )  # fmt: skip
        family, config = shape(recipe, supply.tokenizer.vocab_size)
        return Job(
            out=out,
            recipe=recipe,
            origin={"command": "pretrain", "corpus_spec": corpus},
            record={"context": recipe.context},
            names={"corpus": corpus, "tokenizer_fingerprint": recipe.tokenizer},
            models=lambda: {"model": new_model(family, config, recipe.seed)},
            objective=lambda ranks: Causal(recipe.z_loss, recipe.compile),
            supply=supply,
            learning_rate=recipe.learning_rate or (1.0 if recipe.optimizer == "sgd" else 1 / config.width),
            machine=machine,
            started=started,
            evaluate=held_out_likelihood(supply),
            sample=sample_of(supply, recipe.context),
            flops=lambda models: training_flops_per_token(models["model"], recipe.context),
        )

    return train(out, recipe.parallel, prepare, extend, profile)


def shape(recipe: PretrainRecipe, vocabulary: int) -> tuple[str, Any]:
    """The family and config that a recipe asks for."""
    family = recipe.family
    if recipe.preset is None:
        config: Any = by_depth(family, recipe.depth, vocabulary, recipe.context, recipe.dropout, recipe.width)
    else:
        usual = PretrainRecipe()
        if (family, recipe.depth, recipe.width) != (usual.family, usual.depth, usual.width):
            raise UserError("--preset names a whole shape; leave out --family, --depth and --width")
        family, config = preset(recipe.preset, vocabulary, recipe.context, recipe.dropout)
    if family not in LANGUAGE:
        raise UserError(f'family "{family}" does not continue texts, which is what pretrain teaches')
    for flag, field, kind in _FIELDS:
        value = getattr(recipe, flag)
        if value is not None and not hasattr(config, field):
            name = flag.replace("_", "-")
            raise UserError(f"--{name} {value}: means something for {kind} only")
        config = config if value is None else replace(config, **{field: value})
    return family, config


_FIELDS = (
    ("balance", "router_aux_loss_coef", "families with experts, such as mixtral,"),
    ("weight_dropout", "weight_dropout", "recurrent families, such as lstm,"),
)
"""Settings of a recipe that are a field of some configs, and which those are."""
