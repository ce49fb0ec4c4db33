"""langwright finetune: go on training a model on your own text or conversations."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from langwright.adaptation.folder import is_adapter, save_adapter
from langwright.base.console import say, warn
from langwright.base.errors import UserError
from langwright.base.files import read_json, write_json
from langwright.commands.adapting import method_of
from langwright.commands.conversations import chat_supply
from langwright.commands.evaluate import check_vocabulary, measure_text
from langwright.commands.reporting import write_report
from langwright.commands.results import tell_likelihood
from langwright.commands.supply import Supply
from langwright.commands.texts import read_texts
from langwright.commands.training import Job, Result, claimed, close, train
from langwright.corpora.opening import open_corpus
from langwright.evaluation.likelihood import Likelihood, likelihood
from langwright.models.decoder import CausalLM
from langwright.models.folder import GENERATION, RECORD, load_config, load_language_model
from langwright.models.growing import grow_vocabulary
from langwright.models.shapes import width
from langwright.models.weights import weights_checksum
from langwright.planning.machine import measure
from langwright.text.equip import equip
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
    """Go on training a model, or an adapter of it, on your own text or conversations, and measure what it learns.

    What it forgets is measured too.

    model: the folder of the model to begin with, from here or from elsewhere.
    text: a corpus as for pretrain: a file, folder, glob or name; with --task chat, files of conversations.
    out: the new model folder, or with --method lora the new adapter folder.
    recipe: how.
    extend: go on with a finished run, for longer.
    profile: write the share of time of each part of a training step into the report.
    ignore_field: a field of config.json to pass over although it is not understood.
    json: print the result as JSON.
    """
    result = run(model, text, out, recipe, extend, ignore_field, profile)
    if result.held_out is not None:
        chat = recipe.task == "chat"
        tell_likelihood(result.held_out, "held-out answers" if chat else "held-out new text", json)
        forgetting = read_json(out / RECORD, "the record of the run")["forgetting"]
        for name, change in forgetting.items():
            what = "answers" if chat and name == "new" else f"{name} text"
            say(f"{what}, held out: {change['before']:.4f} bits per byte before, {change['after']:.4f} after")
        if not result.already:
            write_report(out)
            how = f"{model} --adapter {out}" if is_adapter(out) else out
            say(f"wrote {out}{f' (langwright chat {how})' if chat else ''} and {out / 'report.html'}")
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
    method = method_of(recipe)
    config = load_config(model, ignore_field)[1]
    tokenizer = load_tokenizer(model)
    with claimed(out):
        machine = measure(recipe.device, recipe.dtype, recipe.exact)
        base = load_language_model(model, machine.device, ignore_fields=ignore_field)
        check_vocabulary(base, tokenizer)
        context = recipe.context or base.context
        if context > base.context:
            raise UserError(f"--context {context}: the model's own context is {base.context} tokens")
        supply = _supply(text, recipe, tokenizer, context, model, may_grow=method is None)
        old = _old_text(model, recipe)

        def base_model() -> CausalLM:
            """The model to begin with in float32, its tables as long as the vocabulary."""
            found = load_language_model(model, ignore_fields=ignore_field).float()
            grow_vocabulary(found, supply.tokenizer.vocab_size)
            return found

        def begun() -> CausalLM:
            """The same with what is to be trained beside it."""
            found = base_model()
            if method is not None:
                method.attach(found, seed=recipe.seed)
            return found

        def measured(trained: CausalLM) -> Row:
            """Held-out bits per byte before and after, of the new text and of the old."""
            before = base_model().to(machine.device, machine.dtype).eval()
            changes = {"new": {"text": text, **_change(before, trained, lambda m: _held_out(m, supply))}}
            if old is not None:
                source = old
                changes["old"] = {
                    "text": old[0],
                    **_change(before, trained, lambda m: measure_text(m, tokenizer, *source, context)),
                }
            return {"forgetting": changes}

        def save(trained: CausalLM, masters: Mapping[str, Tensor], record: Row) -> None:
            for name, master in masters.items():
                trained.get_parameter(name).data = master.detach()
            if recipe.task == "chat":  # the template and the stop belong to what was tuned
                supply.tokenizer.save(out)
                write_json(out / GENERATION, supply.generation)
            save_adapter(trained, out, base=model, record=record)

        job = Job(
            out=out,
            recipe=recipe,
            origin={"command": "finetune", "corpus_spec": text, "base": weights_checksum(model)},
            model=begun,
            supply=supply,
            context=context,
            learning_rate=recipe.learning_rate or (0.1 if method is None else 1) / width(config),
            machine=machine,
            started=started,
            record={"base_folder": str(model)},
            factor=(lambda name: 1.0) if method is None else method.rate,
            save=None if method is None else save,
        )
        return train(job, extend, measured, profile)


def _supply(
    text: str, recipe: FinetuneRecipe, tokenizer: Tokenizer, context: int, model: Path, may_grow: bool
) -> Supply:
    """The data of the task. may_grow: whether the token table and the head are trained, so that they may grow."""
    if recipe.task == "chat":
        equipped = equip(tokenizer, recipe.template, may_grow, where=str(model))
        return chat_supply(text, recipe, equipped, context)
    texts = read_texts(text, recipe.split or "0.9", recipe.field, tokenizer)
    return texts.supply(context, recipe.batch_size, recipe.seed, recipe.crossing)


def _held_out(model: CausalLM, supply: Supply) -> Likelihood:
    return likelihood(model, supply.held_out(None), supply.held_out_bytes)


def _change(before: CausalLM, after: CausalLM, measure_: Callable[[CausalLM], Likelihood]) -> Row:
    """Bits per byte of two models."""
    return {"before": measure_(before).bits_per_byte, "after": measure_(after).bits_per_byte}


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
