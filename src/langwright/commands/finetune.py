"""langwright finetune: go on training a model on your own text or conversations."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from langwright.adaptation.folder import is_adapter
from langwright.adaptation.methods.prompt_tuning import SoftPromptMethod, nearest_words
from langwright.adaptation.options import method_of, options_of, with_methods
from langwright.base.console import say
from langwright.base.errors import UserError, check_flag
from langwright.base.files import read_json
from langwright.commands._goals import Goal
from langwright.commands._goals import goal as goal_of
from langwright.commands._search import searched
from langwright.data.order import Layout
from langwright.evaluation.in_training import sample_of
from langwright.models.folder import RECORD
from langwright.models.model import Model
from langwright.models.surgery.quantise import is_quantised
from langwright.models.surgery.vocabulary import grow_vocabulary
from langwright.objectives.batch import Models
from langwright.pipelines.opening import check_vocabulary
from langwright.planning.cost import training_flops_per_token
from langwright.planning.machine import measure as measure_machine
from langwright.training.beginning import Beginning, existing_model
from langwright.training.checkpoints import decided_dtype
from langwright.training.recipe import FinetuneRecipe, NewModelRecipe
from langwright.training.report import write_report
from langwright.training.trainer import Job, Result, close, train
from langwright.training.unfreezing import Unfreezing

Row = dict[str, Any]
NEW = "new:"
"""Before the name of a family or a preset."""


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
    search: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Go on training a model, or an adapter of it, on your own text, conversations or rows, and measure what it learns.

    What it forgets of text is measured too. With rows that have answers, the model may be a new one.

    Args:
        model: the folder of the model to begin with, from here or from elsewhere, or a model of the Hub: hf:owner/name
            or hf:owner/name@revision, to whose revision a run keeps; or a new one for a task on rows, by its family
            or a preset: new:cnn, new:lstm, new:bert, new:marian ...
        text: a corpus as for pretrain: a file, folder, glob or name; with --task chat files of conversations, with
            other tasks a table of rows with labels, or recordings.
        out: the new model folder, or with any --method but full the new adapter folder.
        recipe: how.
        extend: go on with a finished run, for longer.
        profile: write the share of time of each part of a training step into the report.
        ignore_field: a field of config.json to pass over although it is not understood.
        search: values of a setting to try in runs of a quarter of the length, such as rank=1,4,16; more than one may be
            given. The best on the held-out rows is then trained for the whole length.
        json: print the result as JSON.
    """

    def trial(candidate: TuningRecipe, folder: Path) -> tuple[Result, str | None]:
        tuning = Tuning(model, text, folder, candidate, ignore_field)
        return train(folder, candidate.parallel, tuning.job), tuning.goal.best

    if search:
        recipe, stopped = searched(search, recipe, out, trial, extend)
        if stopped is not None:
            return close(stopped, out)
    tuning = Tuning(model, text, out, recipe, ignore_field)
    result = train(out, recipe.parallel, tuning.job, extend, profile)
    if result.held_out is not None:
        record = read_json(out / RECORD, "the record of the run")
        tuning.goal.tell(record, json)
        for number, words in enumerate(record.get("nearest_words", ())):
            say(f"virtual token {number} is nearest to {', '.join(f'{word!r} ({near:.2f})' for word, near in words)}")
        if not result.already:
            write_report(out)
            use = tuning.goal.use(f"{model} --adapter {out}" if is_adapter(out) else str(out))
            say(f"wrote {out}{use} and {out / 'report.html'}")
    return close(result, out)


def run(model: Path, text: str, out: Path, recipe: TuningRecipe) -> Result:
    """Fine-tune; nothing is printed at the end."""
    return train(out, recipe.parallel, Tuning(model, text, out, recipe).job)


class Tuning:
    """A base model and what it is to learn; arguments as for `finetune`.

    Raises:
        UserError: The base, or a setting of the method, is refused.
    """

    def __init__(
        self, model: Path, text: str, out: Path, recipe: TuningRecipe, ignore_field: tuple[str, ...] = ()
    ) -> None:
        self.started = time.monotonic()
        self.text, self.out, self.recipe = text, out, recipe
        self.method = method_of(recipe)
        name = str(model)
        found = None if name.startswith(NEW) else _existing(model, out, recipe, ignore_field)
        goal = goal_of(text, out, recipe)
        self.begin = found or _new(name.removeprefix(NEW), goal, recipe)
        self.tokenizer = self.begin.tokenizer
        self.goal = goal.fitted(self.begin.origin, self.tokenizer)

    def job(self, rank: int, world: int) -> Job:
        """The base looked at, and the data made ready for it; UserError where they do not go together."""
        recipe, out, method, virtual = self.recipe, self.out, None, 0
        self.machine = measure_machine(recipe.device, decided_dtype(out, recipe.dtype), recipe.exact)
        base = self.fresh()
        check_vocabulary(base.vocabulary, self.tokenizer, self.begin.origin.path)
        if self.method is not None:
            self.method = method = self.method.prepared(self.tokenizer)
            method.check_new(base)
            virtual = method.tokens
        elif is_quantised(base):
            raise UserError(
                f"{self.begin.origin.path}: quantised weights are not trained; --method lora trains an adapter"
            )
        most = base.window - 2
        check_flag("virtual_tokens", virtual, virtual <= most, f"at most {most}, in a context of {base.window} tokens")
        context = recipe.context or base.window - virtual
        room = f"from 2 to the model's context of {base.context} tokens, of which virtual tokens take {virtual}"
        check_flag("context", context, context >= 2 and base.fits(context + virtual), room)
        layout = Layout(recipe.batch_size, recipe.seed, recipe.compile, rank, world)
        goal, supply = self.goal, self.goal.supply(self.tokenizer, layout, context)
        self.supply, self.context, self.ready = supply, context, [base]
        begin = self.begin
        named = begin.record["base_folder"]
        return Job(
            out=out,
            recipe=recipe,
            origin={"command": "finetune", "corpus_spec": self.text, "base": begin.identity},
            names={"base": named, "corpus": self.text, "tokenizer_fingerprint": named},
            models=self.models,
            objective=lambda ranks: goal.objective(),
            supply=supply,
            learning_rate=recipe.learning_rate or begin.rate / begin.origin.config.width,
            machine=self.machine,
            started=self.started,
            evaluate=goal.evaluate(supply),
            sample=sample_of(supply, context),
            flops=lambda models: training_flops_per_token(models["model"], context),
            on_finish=self.finish,
            record={**begin.record, "context": context, **goal.record()},
            factor=(lambda name: 1.0) if method is None else method.rate,
            save=None if method is None else self.save,
            begin=begin.note(out),
            unfreezing=Unfreezing(recipe.every("unfreeze_every")) if recipe.unfreeze_every else None,
            best=goal.best,
            patience=recipe.patience,
        )

    def fresh(self) -> Model:
        """The base with the head that the goal asks for."""
        recipe, goal = self.recipe, self.goal
        return self.begin.origin.model(bits=recipe.bits, head=goal.head, labels=goal.labels or None, seed=recipe.seed)

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

    def finish(self, models: Models) -> Row:
        """What the goal measures at the end, and what virtual tokens are near."""
        trained, machine = models["model"], self.machine
        adapted = self.method is not None  # then the base is here already, without the adapter

        def before() -> Model:
            return trained if adapted else self.base().to(machine.device, machine.dtype).eval()

        found = self.goal.finish(trained, before, self.supply, self.context)
        if isinstance(self.method, SoftPromptMethod):
            found["nearest_words"] = nearest_words(trained, self.tokenizer)
        return found

    def save(self, models: Models, masters: Mapping[str, Tensor], record: Row) -> None:
        """Write the adapter's folder, its numbers those of the masters."""
        self.begin.save(models["model"], masters, self.out, record, self.supply.tokenizer)


def _existing(model: Path, out: Path, recipe: TuningRecipe, ignore_field: tuple[str, ...]) -> Beginning:
    """A model folder; see `existing_model`."""
    for field in vars(NewModelRecipe()).keys() - options_of(recipe):
        if (value := getattr(recipe, field)) != getattr(NewModelRecipe(), field):
            raise UserError(f"--{field.replace('_', '-')} {value}: is for a new model, not for {model}")
    return existing_model(model, out, 0.1 if recipe.method == "full" else 1.0, ignore_field)


def _new(name: str, goal: Goal, recipe: TuningRecipe) -> Beginning:
    """A model that is not trained yet, of a family or a preset."""
    for flag, value, usual in (("method", recipe.method, "full"), ("bits", recipe.bits, None)):
        if value != usual:
            raise UserError(f"--{flag} {value}: is for a model that exists; {NEW}{name} is trained as a whole")
    origin, tokenizer = goal.fresh(name)
    path = str(origin.path)
    return Beginning(origin, tokenizer, {"base_folder": path}, path, origin.rate)
