"""langwright pretrain: from raw text to a model folder."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.commands._objective import predictions, reading_of
from langwright.corpora.labelled import Columns
from langwright.corpora.opening import named_corpora
from langwright.data.order import Layout
from langwright.data.pairs import pair_supply
from langwright.data.pieces import Framing
from langwright.data.streams import InOrder
from langwright.data.supply import Supply
from langwright.data.texts import text_supply
from langwright.evaluation.in_training import held_out_likelihood, sample_of
from langwright.evaluation.likelihood import print_likelihood
from langwright.evaluation.tasks.writing import Translate
from langwright.models.families import FAMILIES, LEARNERS
from langwright.models.folder import new_model
from langwright.models.shapes import preset
from langwright.planning.cost import training_flops_per_token
from langwright.planning.machine import measure
from langwright.text.tokenizer import Tokenizer
from langwright.training.checkpoints import decided_dtype
from langwright.training.new_model import framing_of, shape, tokenised
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
    """Train a model from raw text, or from pairs. The same command continues a run that was stopped, bit for bit.

    Args:
        corpus: a name (python-stdlib, tinyshakespeare, tinystories), a file, a folder, a glob, or hf:owner/name;
            several with names of their own to mix them, such as web=PATH,code=PATH; for --objective seq2seq two files
            of parallel lines, joined by ::.
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
            verb = "next" if recipe.objective == "masked" else "generate"
            say(f"wrote {out} (langwright {verb} {out}) and {out / 'report.html'}")
    return close(result, out)


def run(corpus: str, out: Path, recipe: PretrainRecipe, extend: bool = False, profile: bool = False) -> Result:
    """Pretrain; nothing is printed at the end."""
    started = time.monotonic()
    out = Path(out)
    recipe = replace(recipe, family=recipe.family or _usual_family(recipe))

    def prepare(rank: int, world: int) -> Job:
        _shape(recipe, recipe.vocabulary)  # what does not fit is refused before the text is read
        machine = measure(recipe.device, decided_dtype(out, recipe.dtype), recipe.exact)
        supply = supply_of(corpus, recipe, Layout(recipe.batch_size, recipe.seed, recipe.compile, rank, world))
        family, config = _tokenised_shape(recipe, supply.tokenizer)
        head = {"masked": "pretraining" if recipe.next_sentence else "masked"}.get(recipe.objective)
        objective = predictions(recipe, recipe.z_loss, recipe.compile, recipe.smoothing)
        return Job(
            out=out,
            recipe=recipe,
            origin={"command": "pretrain", "corpus_spec": corpus},
            record={"context": recipe.context, **_task_of(recipe)},
            names={"corpus": corpus, "tokenizer_fingerprint": recipe.tokenizer or ""},
            models=lambda: {"model": new_model(family, config, recipe.seed, head)},
            objective=lambda ranks: objective,
            supply=supply,
            learning_rate=recipe.learning_rate
            or (1.0 if recipe.optimizer == "sgd" else FAMILIES[family].rate / config.width),
            machine=machine,
            started=started,
            evaluate=held_out_likelihood(supply),
            sample=sample_of(supply, recipe.context),
            flops=lambda models: training_flops_per_token(models["model"], recipe.context),
        )

    return train(out, recipe.parallel, prepare, extend, profile)


def _task_of(recipe: PretrainRecipe) -> dict[str, Any]:
    """What langwright.json says of the task that an objective teaches, so that `predict` does it."""
    if recipe.objective != "seq2seq":
        return {}
    task = Translate(Columns(), (), length=recipe.context)
    return {"task": {"name": "translate", "head": task.head, "labels": [], **task.record()}}


def supply_of(corpus: str, recipe: PretrainRecipe, layout: Layout) -> Supply:
    """The data that a recipe's objective learns from."""

    def frame(tokenizer: Tokenizer) -> Framing:
        return framing_of(*_tokenised_shape(recipe, tokenizer), tokenizer)

    kind, vocabulary, context = recipe.tokenizer or "bpe", recipe.vocabulary, recipe.context
    if recipe.objective == "seq2seq":
        if named_corpora(corpus):
            raise UserError(f"{corpus}: --objective seq2seq takes the pairs of two files, not several corpora")
        return pair_supply(
            corpus, recipe.split, layout, context, frame, kind=kind, vocabulary=vocabulary, packing=recipe.packing
        )
    carries = FAMILIES[str(recipe.family)].carries
    reading = InOrder(context, recipe.crossing) if carries else reading_of(recipe, frame)
    return text_supply(
        corpus, recipe.split, recipe.field, layout, reading, kind=kind, vocabulary=vocabulary, mix=recipe.mix
    )


def _usual_family(recipe: PretrainRecipe) -> str:
    return LEARNERS[recipe.objective][0].name if recipe.preset is None else preset(recipe.preset, 1, None, 0.0)[0]


def _shape(recipe: PretrainRecipe, vocabulary: int) -> tuple[str, Any]:
    """The family and config that a recipe asks for; UserError where its objective is not for them."""
    name = recipe.preset or str(recipe.family)
    family, config = shape(name, recipe, vocabulary, recipe.context, is_preset=recipe.preset is not None)
    if recipe.family != family:
        raise UserError("--preset names a whole shape; leave out --family, --depth and --width")
    learners = [row.name for row in LEARNERS[recipe.objective]]
    if family not in learners:
        known = ", ".join(dict.fromkeys(learners))
        raise UserError(f'--objective {recipe.objective}: is not for family "{family}"; choose one of {known}')
    if recipe.next_sentence and "pretraining" not in FAMILIES[family].heads:
        known = ", ".join(row.name for row in FAMILIES.values() if "pretraining" in row.heads)
        raise UserError(f"--next-sentence: {family} has no head for it; {known} has one")
    if recipe.packing and FAMILIES[family].carries:
        raise UserError(f"--packing: {family} reads texts in order, one after the other; leave it out")
    return family, config


def _tokenised_shape(recipe: PretrainRecipe, tokenizer: Tokenizer) -> tuple[str, Any]:
    return tokenised(*_shape(recipe, tokenizer.vocab_size), tokenizer)
