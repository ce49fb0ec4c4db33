"""langwright finetune: go on training a model on your own text or conversations."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from langwright.adaptation.folder import is_adapter, save_adapter
from langwright.adaptation.method import Method
from langwright.adaptation.methods.prompt_tuning import SoftPromptMethod, nearest_words
from langwright.adaptation.options import method_of, with_methods
from langwright.base.console import say, warn
from langwright.base.errors import UserError
from langwright.base.files import read_json, write_json
from langwright.base.hub import PREFIX, model_folder, parse_hub_name
from langwright.commands.evaluate import check_vocabulary, measure_text
from langwright.corpora.opening import open_corpus
from langwright.data.conversations import chat_supply
from langwright.data.order import Layout
from langwright.data.supply import Supply
from langwright.data.texts import text_supply
from langwright.evaluation.in_training import held_out_likelihood, sample_of
from langwright.evaluation.likelihood import Likelihood, likelihood, print_likelihood
from langwright.models.folder import GENERATION, RECORD, OpenedFolder
from langwright.models.model import Model
from langwright.models.shapes import width
from langwright.models.surgery.quantise import is_quantised
from langwright.models.surgery.vocabulary import grow_vocabulary
from langwright.models.weights import weights_checksum
from langwright.objectives.batch import Models
from langwright.objectives.losses import Causal
from langwright.planning.cost import training_flops_per_token
from langwright.planning.machine import Machine, measure
from langwright.text.chat_setup import set_up_chat
from langwright.text.tokenizer import Tokenizer, load_tokenizer
from langwright.training.checkpoints import decided_dtype
from langwright.training.recipe import FinetuneRecipe
from langwright.training.report import write_report
from langwright.training.trainer import Job, Result, close, train
from langwright.training.unfreezing import Unfreezing

Row = dict[str, Any]
OldText = tuple[str, str | None, str]
"""A corpus, its split and its field, as `measure_text` takes them."""
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

    model: the folder of the model to begin with, from here or from elsewhere, or a model of the Hub: hf:owner/name or
        hf:owner/name@revision. A run keeps to the revision that it began with.
    text: a corpus as for pretrain: a file, folder, glob or name; with --task chat, files of conversations.
    out: the new model folder, or with any --method but full the new adapter folder.
    recipe: how.
    extend: go on with a finished run, for longer.
    profile: write the share of time of each part of a training step into the report.
    ignore_field: a field of config.json to pass over although it is not understood.
    json: print the result as JSON.
    """
    result = run(model, text, out, recipe, extend, ignore_field, profile)
    if result.held_out is not None:
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


@dataclass(frozen=True)
class Tuning:
    """A base model and what it is to learn, nothing of it refused.

    opened: the folder of the base. ready: the base as it was first read, until it is asked for.
    method: None for full tuning. tokenizer: the base's own; that of `supply` may have grown.
    context: tokens in a window. old: what forgetting is measured on, where there is anything.
    """

    opened: OpenedFolder
    folder: Path
    text: str
    out: Path
    recipe: FinetuneRecipe
    ready: list[Model]
    machine: Machine
    method: Method | None
    tokenizer: Tokenizer
    context: int
    supply: Supply
    old: OldText | None

    def base(self) -> Model:
        """The model to begin with in float32, its tables as long as the vocabulary."""
        found = self.ready.pop() if self.ready else self.opened.model(bits=self.recipe.bits)
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
        trained = models["model"]
        found: Row = {}
        if isinstance(self.method, SoftPromptMethod):
            found["nearest_words"] = nearest_words(trained, self.tokenizer)
        before = self.base().to(self.machine.device, self.machine.dtype).eval()
        found["forgetting"] = {"new": {"text": self.text, **_change(before, trained, self._new_text)}}
        if self.old is not None:
            found["forgetting"]["old"] = {"text": self.old[0], **_change(before, trained, self._old_text)}
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

    def _new_text(self, model: Model) -> Likelihood:
        return likelihood(model, self.supply.held_out(None), self.supply.held_out_bytes)

    def _old_text(self, model: Model) -> Likelihood:
        assert self.old is not None
        return measure_text(model, self.tokenizer, *self.old, self.context)


def run(
    model: Path,
    text: str,
    out: Path,
    recipe: FinetuneRecipe,
    extend: bool = False,
    ignore_field: tuple[str, ...] = (),
    profile: bool = False,
) -> Result:
    """Fine-tune; nothing is printed at the end."""
    started, out = time.monotonic(), Path(out)
    folder, origin = _base(model, out)
    if out.resolve() == folder.resolve():
        raise UserError(f"{out}: the new model needs a folder of its own")
    method = method_of(recipe)
    opened = OpenedFolder(folder, ignore_field).require(generates=True, one_stack=True)
    usual_rate = (0.1 if method is None else 1) / width(opened.family.name, opened.config)
    tokenizer = load_tokenizer(folder)

    def prepare(rank: int, world: int) -> Job:
        tuning = _open(opened, text, out, recipe, method, tokenizer, (rank, world))
        return Job(
            out=out,
            recipe=recipe,
            origin={"command": "finetune", "corpus_spec": text, "base": weights_checksum(folder)},
            names={"base": origin["base_folder"], "corpus": text, "tokenizer_fingerprint": origin["base_folder"]},
            models=tuning.models,
            objective=lambda ranks: Causal(recipe.z_loss, recipe.compile),
            supply=tuning.supply,
            learning_rate=recipe.learning_rate or usual_rate,
            machine=tuning.machine,
            started=started,
            evaluate=held_out_likelihood(tuning.supply),
            sample=sample_of(tuning.supply, tuning.context),
            flops=lambda models: training_flops_per_token(models["model"], tuning.context),
            on_finish=tuning.measure,
            record={**origin, "context": tuning.context},
            factor=(lambda name: 1.0) if tuning.method is None else tuning.method.rate,
            save=None if tuning.method is None else tuning.save,
            begin=lambda: write_json(out / BEGAN_WITH, origin) if "base_revision" in origin else None,
            unfreezing=Unfreezing(recipe.every("unfreeze_every")) if recipe.unfreeze_every else None,
        )

    return train(out, recipe.parallel, prepare, extend, profile)


def _open(
    opened: OpenedFolder,
    text: str,
    out: Path,
    recipe: FinetuneRecipe,
    method: Method | None,
    tokenizer: Tokenizer,
    share: tuple[int, int],
) -> Tuning:
    """The base looked at once, the data made ready for it; UserError where they and the recipe do not go together."""
    machine = measure(recipe.device, decided_dtype(out, recipe.dtype), recipe.exact)
    folder, base = opened.path, opened.model(bits=recipe.bits)
    check_vocabulary(base, tokenizer)
    _refuse_full_in_quantised(folder, recipe, base)
    method = None if method is None else method.prepared(tokenizer)
    if method is not None:
        method.check_new(base)
    context = _context(recipe, base, method)
    layout = Layout(recipe.batch_size, recipe.seed, recipe.compile, *share)
    supply = _supply(text, recipe, tokenizer, layout, context, folder, may_grow=method is None)
    old = _find_old_text(folder, recipe)
    return Tuning(opened, folder, text, out, recipe, [base], machine, method, tokenizer, context, supply, old)


def _refuse_full_in_quantised(folder: Path, recipe: FinetuneRecipe, base: Model) -> None:
    if recipe.method == "full" and (recipe.bits or is_quantised(base)):
        raise UserError(f"{folder}: quantised weights cannot be trained; --method lora trains an adapter over them")


def _context(recipe: FinetuneRecipe, base: Model, method: Method | None) -> int:
    """Tokens in a window; UserError where they and the virtual tokens before them do not fit the base's context."""
    virtual = 0 if method is None else method.tokens
    context = recipe.context or base.context - virtual
    if context < 2:
        raise UserError(f"--virtual-tokens {virtual}: no room is left in the model's context of {base.context} tokens")
    if context + virtual > base.context:
        beside = f", of which virtual tokens take {virtual}" * (virtual > 0)
        raise UserError(f"--context {context}: the model's own context is {base.context} tokens{beside}")
    return context


def _base(model: Path, out: Path) -> tuple[Path, Row]:
    """The folder of the model to begin with, and its entry in the record.

    A name on the Hub means the revision that the run in `out` began with, however far the Hub has gone since.
    """
    name = parse_hub_name(str(model))
    if name is None:
        return model_folder(model), {"base_folder": str(model)}
    base = read_json(out / BEGAN_WITH, "the base of the run") if (out / BEGAN_WITH).exists() else {}
    if base.get("base_folder") == str(name):
        say(f"{name}: {out} began with revision {base['base_revision']}")
        return model_folder(f"{PREFIX}{name.repository}@{base['base_revision']}"), base
    folder = model_folder(model)
    return folder, {"base_folder": str(name), "base_revision": folder.name}


def _supply(
    text: str,
    recipe: FinetuneRecipe,
    tokenizer: Tokenizer,
    layout: Layout,
    context: int,
    model: Path,
    may_grow: bool,
) -> Supply:
    """The data of the task. may_grow: whether the token table and the head are trained, so that they may grow."""
    if recipe.task == "chat":
        setup = set_up_chat(tokenizer, recipe.template, may_grow, where=str(model))
        return chat_supply(text, setup, layout, context, recipe.split or "5%", recipe.packing)
    return text_supply(text, recipe.split or "0.9", recipe.field, layout, context, recipe.crossing, tokenizer)


def _change(before: Model, after: Model, measure_: Callable[[Model], Likelihood]) -> Row:
    """Bits per byte of two models."""
    return {"before": measure_(before).bits_per_byte, "after": measure_(after).bits_per_byte}


def _find_old_text(model: Path, recipe: FinetuneRecipe) -> OldText | None:
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
