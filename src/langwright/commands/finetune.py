"""langwright finetune: go on training a model on your own text or conversations."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from langwright.adaptation.attached import attached
from langwright.adaptation.folder import is_adapter, save_adapter
from langwright.adaptation.methods.prompt_tuning import SoftPromptMethod, nearest_words
from langwright.adaptation.options import method_of, with_methods
from langwright.base.console import say, warn
from langwright.base.errors import UserError, check_flag
from langwright.base.files import read_json, read_object, write_json
from langwright.base.hub import PREFIX, model_folder, parse_hub_name
from langwright.commands.evaluate import measure, tokens_of
from langwright.corpora.labelled import Columns
from langwright.corpora.opening import open_corpus
from langwright.data.conversations import chat_supply
from langwright.data.order import Layout
from langwright.data.reading import Continuing
from langwright.data.supply import Supply
from langwright.data.texts import text_supply
from langwright.evaluation.in_training import held_out_likelihood, sample_of
from langwright.evaluation.likelihood import Likelihood, likelihood, print_likelihood
from langwright.evaluation.tasks import TASKS
from langwright.evaluation.tasks.scores import print_scores
from langwright.evaluation.tasks.tuning import PREDICTIONS, TaskData, task_data
from langwright.inference.opening import check_vocabulary
from langwright.models.folder import GENERATION, RECORD, OpenedFolder
from langwright.models.model import Model
from langwright.models.surgery.quantise import is_quantised
from langwright.models.surgery.vocabulary import grow_vocabulary
from langwright.models.weights import weights_checksum
from langwright.objectives.batch import Models, Objective
from langwright.objectives.language import TokenPrediction
from langwright.planning.cost import training_flops_per_token
from langwright.planning.machine import measure as measure_machine
from langwright.text.chat_template import set_up_chat
from langwright.text.tokenizer import load_tokenizer
from langwright.training.checkpoints import decided_dtype
from langwright.training.recipe import FinetuneRecipe
from langwright.training.report import write_report
from langwright.training.trainer import Job, Result, close, train
from langwright.training.unfreezing import Unfreezing

Row = dict[str, Any]
OldText = tuple[str, str | None, str]
"""A corpus, its split and its field, as `tokens_of` takes them."""
BEGAN_WITH = Path("checkpoints/base.json")
"""Below OUT: which model of the Hub a run began with, as in langwright.json."""


@with_methods
@dataclass(frozen=True)
class TuningRecipe(FinetuneRecipe):
    """How a model goes on learning, and the options of all methods."""


def finetune(
    model: Path,
    text: str,
    out: Path,
    recipe: TuningRecipe = TuningRecipe(),
    extend: bool = False,
    profile: bool = False,
    ignore_field: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Go on training a model, or an adapter of it, on your own text or conversations, and measure what it learns.

    What it forgets is measured too.

    Args:
        model: the folder of the model to begin with, from here or from elsewhere, or a model of the Hub: hf:owner/name
            or hf:owner/name@revision. A run keeps to the revision that it began with.
        text: a corpus as for pretrain: a file, folder, glob or name; with --task chat files of conversations, with
            other tasks a table of rows with labels.
        out: the new model folder, or with any --method but full the new adapter folder.
        recipe: how.
        extend: go on with a finished run, for longer.
        profile: write the share of time of each part of a training step into the report.
        ignore_field: a field of config.json to pass over although it is not understood.
        json: print the result as JSON.
    """
    result = run(model, text, out, recipe, extend, profile, ignore_field)
    if result.held_out is not None and recipe.task in TASKS:
        print_scores(result.held_out, json)
        if not result.already:
            write_report(out)
            how = f"{model} --adapter {out}" if is_adapter(out) else out
            say(f"wrote {out} (langwright predict {how} FILE), {out / PREDICTIONS} and {out / 'report.html'}")
    elif result.held_out is not None:
        chat = recipe.task == "chat"
        print_likelihood(result.held_out, "held-out answers" if chat else "held-out new text", json)
        record = read_json(out / RECORD, "the record of the run")
        for number, words in enumerate(record.get("nearest_words", ())):
            say(f"virtual token {number} is nearest to {', '.join(f'{word!r} ({near:.2f})' for word, near in words)}")
        for name, change in record["forgetting"].items():
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
    recipe: TuningRecipe,
    extend: bool = False,
    profile: bool = False,
    ignore_field: tuple[str, ...] = (),
) -> Result:
    """Fine-tune; nothing is printed at the end."""
    return train(out, recipe.parallel, Tuning(model, text, out, recipe, ignore_field).job, extend, profile)


class Tuning:
    """A base model and what it is to learn; arguments as for `finetune`.

    Raises:
        UserError: The base, or a setting of the method, is refused.
    """

    def __init__(self, model: Path, text: str, out: Path, recipe: TuningRecipe, ignore_field: tuple[str, ...]) -> None:
        self.started = time.monotonic()
        self.text, self.out, self.recipe = text, out, recipe
        self.folder, self.origin = _base(model, out)
        if out.resolve() == self.folder.resolve():
            raise UserError(f"{out}: the new model needs a folder of its own")
        self.method = method_of(recipe)
        self.opened = OpenedFolder(self.folder, ignore_field)
        self.data: TaskData | None = None
        if recipe.task in TASKS:
            columns = Columns(recipe.text_field, recipe.second_field, recipe.label_field)
            self.data = task_data(TASKS[recipe.task], text, recipe.validation, recipe.split, columns)
        else:
            self.opened.require(generates=True, one_stack=True)
        self.tokenizer = load_tokenizer(self.folder)

    def job(self, rank: int, world: int) -> Job:
        """The base looked at, and the data made ready for it; UserError where they do not go together."""
        recipe, out, method, virtual = self.recipe, self.out, None, 0
        self.machine = measure_machine(recipe.device, decided_dtype(out, recipe.dtype), recipe.exact)
        base = self.fresh()
        check_vocabulary(base, self.tokenizer)
        if self.method is not None:
            self.method = method = self.method.prepared(self.tokenizer)
            method.check_new(base)
            virtual = method.tokens
        elif is_quantised(base):
            raise UserError(f"{self.folder}: quantised weights are not trained; --method lora trains an adapter")
        most = base.window - 2
        check_flag("virtual_tokens", virtual, virtual <= most, f"at most {most}, in a context of {base.window} tokens")
        context = recipe.context or base.window - virtual
        room = f"from 2 to the model's context of {base.context} tokens, of which virtual tokens take {virtual}"
        check_flag("context", context, context >= 2 and base.fits(context + virtual), room)
        layout = Layout(recipe.batch_size, recipe.seed, recipe.compile, rank, world)
        self.supply = supply = self._supply(layout, context)
        self.context, self.ready, data = context, [base], self.data
        self.old = _old_text(self.folder, recipe) if data is None else None
        named = self.origin["base_folder"]
        usual_rate = (0.1 if method is None else 1) / self.opened.config.width
        return Job(
            out=out,
            recipe=recipe,
            origin={"command": "finetune", "corpus_spec": self.text, "base": weights_checksum(self.folder)},
            names={"base": named, "corpus": self.text, "tokenizer_fingerprint": named},
            models=self.models,
            objective=lambda ranks: self._objective(),
            supply=supply,
            learning_rate=recipe.learning_rate or usual_rate,
            machine=self.machine,
            started=self.started,
            evaluate=held_out_likelihood(supply) if data is None else data.evaluate(supply, recipe.smoothing),
            sample=sample_of(supply, context),
            flops=lambda models: training_flops_per_token(models["model"], context),
            on_finish=self.measure if data is None else data.finish(supply, out),
            record={**self.origin, "context": context, **self._task_record()},
            factor=(lambda name: 1.0) if method is None else method.rate,
            save=None if method is None else self.save,
            begin=lambda: write_json(out / BEGAN_WITH, self.origin) if "base_revision" in self.origin else None,
            unfreezing=Unfreezing(recipe.every("unfreeze_every")) if recipe.unfreeze_every else None,
            best=None if data is None else f"validation_{data.task.best}",
            patience=recipe.patience,
        )

    def _objective(self) -> Objective:
        recipe = self.recipe
        if self.data is None:
            return TokenPrediction(recipe.z_loss, recipe.compile)
        return self.data.task.objective(recipe.smoothing)

    def _task_record(self) -> Row:
        """What langwright.json says of a task, so that the model is used for it again."""
        if self.data is None:
            return {}
        task = self.data.task
        return {"task": {"name": self.recipe.task, "head": task.head, "labels": list(task.labels), **task.record()}}

    def fresh(self) -> Model:
        """The base with the head that the task asks for."""
        recipe, data = self.recipe, self.data
        if data is None:
            return self.opened.model(bits=recipe.bits)
        return self.opened.model(
            bits=recipe.bits, head=data.task.head, labels=data.task.labels or None, seed=recipe.seed
        )

    def _supply(self, layout: Layout, context: int) -> Supply:
        recipe = self.recipe
        if self.data is not None:
            return self.data.supply(self.tokenizer, layout, context)
        if recipe.task == "text":
            split = recipe.split or "0.9"
            reading = Continuing(context, recipe.crossing)
            return text_supply(self.text, split, recipe.field, layout, reading, self.tokenizer)
        # The token table and the head grow only where they are trained.
        template = set_up_chat(self.tokenizer, recipe.template, self.method is None, where=str(self.folder))
        return chat_supply(self.text, template, layout, context, recipe.split or "5%", recipe.packing)

    def base(self) -> Model:
        """The model to begin with in float32, its tables as long as the vocabulary."""
        found = self.ready.pop() if self.ready else self.fresh()
        found.float()
        grow_vocabulary(found, self.supply.tokenizer.vocab_size)
        return found

    def models(self) -> Models:
        """The same with what is to be trained beside it."""
        found = self.base()
        if self.method is not None:
            self.method.attach(found, seed=self.recipe.seed)
        return {"model": found}

    def measure(self, models: Models) -> Row:
        """Held-out bits per byte before and after, of the new text and of the old; and what virtual tokens are near."""
        trained, on = models["model"], attached(models["model"])
        adapted = self.method is not None  # then the base is here already, without the adapter
        base = trained if adapted else self.base().to(self.machine.device, self.machine.dtype).eval()
        chosen = on.chosen

        def change(text: str, measured: Callable[[Model], Likelihood]) -> Row:
            on.choose(())
            before = measured(base).bits_per_byte
            on.choose(chosen)
            return {"text": text, "before": before, "after": measured(trained).bits_per_byte}

        supply = self.supply
        new = change(self.text, lambda model: likelihood(model, supply.held_out(None), supply.held_out_bytes))
        found: Row = {"forgetting": {"new": new}}
        if isinstance(self.method, SoftPromptMethod):
            found["nearest_words"] = nearest_words(trained, self.tokenizer)
        if self.old is not None:
            with tokens_of(self.tokenizer, *self.old) as tokens:
                found["forgetting"]["old"] = change(self.old[0], lambda model: measure(model, tokens, self.context))
        return found

    def save(self, models: Models, masters: Mapping[str, Tensor], record: Row) -> None:
        """Write the adapter's folder, its numbers those of the masters."""
        trained = models["model"]
        for name, master in masters.items():
            trained.get_parameter(name).data = master.detach()
        if self.recipe.task == "chat":  # the template and the stop belong to what was tuned
            self.supply.tokenizer.save(self.out)
            write_json(self.out / GENERATION, self.supply.tokenizer.generation())
        save_adapter(trained, self.out, base=self.folder, record=record)


def _base(model: Path, out: Path) -> tuple[Path, Row]:
    """The folder of the model to begin with, and its entry in the record.

    A name on the Hub means the revision that the run in `out` began with, however far the Hub has gone since.
    """
    name = parse_hub_name(str(model))
    if name is None:
        return model_folder(model), {"base_folder": str(model)}
    base = read_object(out / BEGAN_WITH, "the base of the run", optional=True)
    if base.get("base_folder") == str(name):
        say(f"{name}: {out} began with revision {base['base_revision']}")
        return model_folder(f"{PREFIX}{name.repository}@{base['base_revision']}"), base
    folder = model_folder(model)
    return folder, {"base_folder": str(name), "base_revision": folder.name}


def _old_text(model: Path, recipe: TuningRecipe) -> OldText | None:
    """What forgetting is measured on: what the user names, else the held-out part of the base's own corpus."""
    if recipe.old_text is not None:
        open_corpus(recipe.old_text, field=recipe.field)
        return recipe.old_text, None, recipe.field
    corpus = read_object(model / RECORD, "the record of the model", optional=True).get("corpus")
    if isinstance(corpus, dict) and {"spec", "split", "field", "hash"} <= corpus.keys():
        try:
            if open_corpus(corpus["spec"], field=corpus["field"]).record()["hash"] == corpus["hash"]:
                return corpus["spec"], corpus["split"], corpus["field"]
            reason = f"{corpus['spec']} has changed since"
        except UserError as error:
            reason = str(error)
    else:
        reason = f"{model} does not say what it was trained on"
    warn(f"forgetting is not measured: {reason}; --old-text CORPUS names another corpus")
    return None
