"""langwright finetune: go on training a model on your own text."""

import hashlib
import time
from pathlib import Path
from typing import Any

from langwright.base.console import say, warn
from langwright.base.errors import UserError
from langwright.base.files import read_json
from langwright.commands.evaluate import check_vocabulary, measure_text
from langwright.commands.reporting import write_report
from langwright.commands.results import tell_likelihood
from langwright.commands.texts import read_texts
from langwright.commands.training import Job, Result, claimed, close, train
from langwright.corpora.opening import open_corpus
from langwright.evaluation.likelihood import Likelihood
from langwright.models.decoder import CausalLM
from langwright.models.folder import RECORD, load_config, load_language_model
from langwright.models.shapes import width
from langwright.planning.machine import measure
from langwright.text.tokenizer import Tokenizer, load_tokenizer
from langwright.training.recipe import FinetuneRecipe

Row = dict[str, Any]


def finetune(
    model: Path,
    text: str,
    out: Path,
    recipe: FinetuneRecipe = FinetuneRecipe(),
    extend: bool = False,
    profile: bool = False,
    ignore_field: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Go on training a model on your own text, and measure what it learns and what it forgets.

    model: the folder of the model to begin with, from here or from elsewhere.
    text: a corpus as for pretrain: a file, folder, glob or name.
    out: the new model folder.
    recipe: how.
    extend: go on with a finished run, for longer.
    profile: write the share of time of each part of a training step into the report.
    ignore_field: a field of config.json to pass over although it is not understood.
    json: print the result as JSON.
    """
    result = run(model, text, out, recipe, extend, ignore_field, profile)
    if result.held_out is not None:
        tell_likelihood(result.held_out, "held-out new text", json)
        forgetting = read_json(out / RECORD, "the record of the run")["forgetting"]
        for name, change in forgetting.items():
            say(f"{name} text, held out: {change['before']:.4f} bits per byte before, {change['after']:.4f} after")
        if not result.already:
            write_report(out)
            say(f"wrote {out} and {out / 'report.html'}")
    return close(result, out)


def run(
    model: Path,
    text: str,
    out: Path,
    recipe: FinetuneRecipe,
    extend: bool = False,
    ignore_field: tuple[str, ...] = (),
    profile: bool = False,
) -> Result:
    """Fine-tuning without words at the end."""
    started = time.monotonic()
    model, out = Path(model), Path(out)
    if out.resolve() == model.resolve():
        raise UserError(f"{out}: the new model needs a folder of its own")
    config = load_config(model, ignore_field)[1]
    tokenizer = load_tokenizer(model)
    with claimed(out):
        texts = read_texts(text, recipe.split, recipe.field, tokenizer)
        machine = measure(recipe.device, recipe.dtype)
        base = load_language_model(model, machine.device, ignore_fields=ignore_field)
        check_vocabulary(base, tokenizer)
        context = recipe.context or base.context
        if context > base.context:
            raise UserError(f"--context {context}: the model's own context is {base.context} tokens")
        old = _old_text(model, recipe)

        def measured(trained: CausalLM) -> Row:
            """Held-out bits per byte before and after, of the new text and of the old."""
            before = load_language_model(model, machine.device, machine.dtype, ignore_field)
            sources = {"new": (text, recipe.split, recipe.field), **({"old": old} if old else {})}
            return {
                "forgetting": {
                    name: {
                        "text": source[0],
                        "before": _score(before, tokenizer, source, context).bits_per_byte,
                        "after": _score(trained, tokenizer, source, context).bits_per_byte,
                    }
                    for name, source in sources.items()
                }
            }

        job = Job(
            out=out,
            recipe=recipe,
            origin={"command": "finetune", "corpus_spec": text, "base": _weights_hash(model)},
            model=lambda: load_language_model(model, ignore_fields=ignore_field).float(),
            supply=texts.supply(context, recipe.batch_size, recipe.seed, recipe.crossing),
            context=context,
            learning_rate=recipe.learning_rate or 0.1 / width(config),
            machine=machine,
            started=started,
            record={"base_folder": str(model)},
        )
        return train(job, extend, measured, profile)


def _score(model: CausalLM, tokenizer: Tokenizer, source: tuple[str, str | None, str], context: int) -> Likelihood:
    spec, split, field = source
    return measure_text(model, tokenizer, spec, split, field, context)


def _old_text(model: Path, recipe: FinetuneRecipe) -> tuple[str, str | None, str] | None:
    """What forgetting is measured on: what the user names, else the held-out part of the base's own corpus."""
    if recipe.old_text is not None:
        open_corpus(recipe.old_text, field=recipe.field)
        return recipe.old_text, None, recipe.field
    if not (model / RECORD).exists():
        warn(f"{model} does not say what it was trained on; --old-text CORPUS would measure forgetting")
        return None
    corpus = read_json(model / RECORD, "the record of the model").get("corpus")
    if not isinstance(corpus, dict) or not {"spec", "split", "field", "hash"} <= corpus.keys():
        warn(f"{model} does not say what it was trained on; --old-text CORPUS would measure forgetting")
        return None
    try:
        found = open_corpus(corpus["spec"], field=corpus["field"]).record()["hash"]
    except UserError as error:
        warn(f"forgetting is not measured: {error}; --old-text names another corpus")
        return None
    if found != corpus["hash"]:
        warn(f"forgetting is not measured: {corpus['spec']} has changed since; --old-text names another corpus")
        return None
    return corpus["spec"], corpus["split"], corpus["field"]


def _weights_hash(model: Path) -> str:
    """Identifies the base model by the checksum of its weights."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
