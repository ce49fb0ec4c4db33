"""What every method of alignment begins with: the base, what is trained of it, its text and its data."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langwright.adaptation.options import method_of
from langwright.alignment.recipe import AlignRecipe
from langwright.alignment.references import base_under_adapter, frozen_copy
from langwright.alignment.rewards import reward_contents
from langwright.base.console import say
from langwright.base.errors import UserError, check_flag
from langwright.corpora.parts import parts_to_learn
from langwright.corpora.preferences import Item, Preferences, open_preferences
from langwright.data.order import Layout
from langwright.data.preferences import AnswerFormat, Continuing, Conversing, Fitting, Pairing
from langwright.data.supply import Batches, Rows, Supply, evaluation_batches
from langwright.models.folder import OpenedFolder, save_model
from langwright.models.model import Model
from langwright.models.surgery.quantise import is_quantised
from langwright.models.surgery.vocabulary import grow_vocabulary
from langwright.objectives.batch import Models, Objective
from langwright.objectives.preferences import Reference
from langwright.pipelines.opening import check_vocabulary
from langwright.planning.cost import training_flops_per_token
from langwright.planning.machine import measure
from langwright.text.chat_template import own_template, set_up_chat
from langwright.training.beginning import existing_model
from langwright.training.checkpoints import decided_dtype
from langwright.training.ranks import Ranks
from langwright.training.trainer import Evaluate, Evaluation, Job

Row = dict[str, Any]
USUAL_SPLIT = "10%"
DROPS = ("dropout", "jitter")
"""How the attributes of modules end that are chances of noise in training."""


class Setup:
    """A model to align, its data, and how.

    Args:
        model: the folder to begin with.
        data: the spec of the rows.
        out: the folder of the run.
        recipe: how.
        rank, world: of this process.

    Attributes:
        adapter: the method of adaptation; None where every parameter trains.
        context: the most tokens of a prompt with an answer, once `open` was called.
    """

    def __init__(self, model: Path, data: str, out: Path, recipe: AlignRecipe, rank: int = 0, world: int = 1) -> None:
        self.started = time.monotonic()
        self.model, self.data, self.out, self.recipe = model, data, out, recipe
        self.layout = Layout(recipe.batch_size, recipe.seed, recipe.compile, rank, world)
        self.adapter = method_of(recipe)
        if getattr(self.adapter, "dropout", 0.0):
            raise UserError("--dropout: alignment trains without dropout, so that a policy is compared with itself")
        self.begin = existing_model(model, out, 0.1 if self.adapter is None else 1.0)
        assert isinstance(self.begin.origin, OpenedFolder)
        self.folder = self.begin.origin
        self.machine = measure(recipe.device, decided_dtype(out, recipe.dtype), recipe.exact)

    def open(self, head: str | None = None, labels: Sequence[str] = ()) -> None:
        """Open the model with a head, or with its own, and see what fits into it.

        Raises:
            UserError: It cannot carry the head, or a setting does not go with it.
        """
        self.head, self.labels = head, tuple(labels)
        base = self.fresh()
        check_vocabulary(base.vocabulary, self.begin.tokenizer, self.folder.path)
        virtual = 0
        if self.adapter is not None:
            self.adapter = self.adapter.prepared(self.begin.tokenizer)
            self.adapter.check_new(base)
            virtual = self.adapter.tokens
        elif is_quantised(base):
            raise UserError(f"{self.folder.path}: quantised weights are not trained; --adapter lora trains an adapter")
        check_flag("virtual_tokens", virtual, virtual <= base.window - 2, f"at most {base.window - 2}")
        self.context = self.recipe.context or base.window - virtual
        room = f"from 2 to the model's context of {base.context} tokens, of which virtual tokens take {virtual}"
        check_flag("context", self.context, self.context >= 2 and base.fits(self.context + virtual), room)
        self._ready = [base]

    def open_policy(self) -> None:
        """Open the model as one that writes; see `open`. UserError where it does not."""
        self.folder.require(generates=True, one_stack=True)
        self.open()

    def fresh(self) -> Model:
        """The model that the run begins with, as it is on disk."""
        return self.folder.model(
            bits=self.recipe.bits, head=self.head, labels=self.labels or None, seed=self.recipe.seed
        )

    def base(self) -> Model:
        """The same in float32, without dropout, its tables as long as the vocabulary."""
        found = self._ready.pop() if self._ready else self.fresh()
        found.float()
        if found.generates:
            grow_vocabulary(found, self.form.tokenizer.vocab_size)
        without_dropout(found)  # 11. of the details of PPO, see ppo.py
        return found

    def trained(self, base: Model) -> Model:
        """A model with the adapter that is to be trained, if there is one."""
        if self.adapter is not None:
            self.adapter.attach(base, seed=self.recipe.seed)
        return base

    def policy(self, compared: bool) -> Models:
        """The model that is trained and, where it is to be compared, what `reference` needs besides."""
        found: dict[str, nn.Module] = {"model": self.trained(self.base())}
        if compared and self.adapter is None:
            found["reference"] = self.base().requires_grad_(False)
        return found

    @property
    def reference(self) -> Reference:
        """The model as it was when the run began: the base under its adapter, or else a frozen copy."""
        return frozen_copy if self.adapter is None else base_under_adapter

    def rows(self, read: Callable[[str, bool], Preferences] = open_preferences) -> tuple[Preferences, Preferences, Row]:
        """The rows to learn from, those to measure, and what identifies them.

        Args:
            read: reads those of a file; what does not fit is left out where the second argument says so.

        Raises:
            UserError: Names file and row of what cannot be read, or a split that leaves nothing.
        """
        recipe = self.recipe
        if recipe.validation is not None and recipe.split is not None:
            raise UserError("--split and --validation exclude each other")
        spec, validation = parts_to_learn(self.data, recipe.validation, recipe.split)
        found = read(spec, recipe.skip)
        if validation is None:
            told = recipe.split or USUAL_SPLIT
            training, held_out = (Preferences(spec, side) for side in found.split(told))
        else:
            told, training, held_out = validation, found, read(validation, recipe.skip)
        record = Preferences(spec, [*training.items, *held_out.items]).record()
        return training, held_out, {**record, "spec": spec, "split": told, "field": "text"}

    def choose_format(self, items: Sequence[Item]) -> Fitting:
        """Settle how prompts and answers of these rows become tokens, and give what fits them into the context."""
        recipe, tokenizer, family = self.recipe, self.begin.tokenizer, self.folder.family
        chats = any(not isinstance(item.prompt, str) for item in items)
        where = str(self.folder.path)
        self.form: AnswerFormat = Continuing(tokenizer)
        if not family.is_decoder:
            if recipe.template is not None:
                told = f"{family.name} reads prompt and answer as a pair of texts"
                raise UserError(f"--template {recipe.template}: {told}")
            self.form = Pairing(tokenizer)
        elif chats or recipe.template is not None or own_template(tokenizer, where) is not None:
            grows = self.adapter is None and self.head is None
            self.form = Conversing(set_up_chat(tokenizer, recipe.template, grows, where))
            say(f"prompts are conversations in the template {self.form.template.name}")
        return Fitting(self.form, self.context, recipe.skip)

    def supply(self, training: Rows, held_out: Rows, record: Row, sampled: Item | None = None) -> Supply:
        """Rows to learn from and rows to measure as a supply.

        Args:
            training, held_out: the rows.
            record: what identifies them.
            sampled: whose prompt samples of the model's writing answer, if any.
        """
        size = self.layout.batch_size
        prompt = None if sampled is None else tuple(self.form.prompt_ids(sampled.prompt))[: self.context - 8]
        return Supply(
            self.form.tokenizer,
            Batches(training, self.layout, by_length=True),
            lambda limit: evaluation_batches(held_out, size, limit),
            int(held_out.inputs),
            None,
            {**record, "format": self.form.name},
            prompt=prompt,
        )

    def job(
        self,
        *,
        supply: Supply,
        models: Callable[[], Models],
        objective: Callable[[Ranks], Objective],
        evaluate: Evaluate,
        rate: float = 1.0,
        record: Mapping[str, Any] = {},
        on_finish: Callable[[Models], Row] = lambda models: {},
        save: Callable[[Models, Mapping[str, Tensor], Row], None] | None = None,
    ) -> Job:
        """A run that trains a model from this beginning.

        Args:
            supply, models, objective, evaluate, on_finish, save: see `Job`; adapters are saved as such unless something
                else is said.
            rate: what the usual learning rate of fine-tuning is multiplied by.
            record: more for langwright.json.
        """
        recipe, begin = self.recipe, self.begin
        named = begin.record["base_folder"]
        rewards = {f"{name}_contents": getattr(recipe, name) for name in ("reward", "gold")}
        rewards = {name: spec for name, spec in rewards.items() if spec is not None}
        contents = {name: reward_contents(spec) for name, spec in rewards.items()}
        return Job(
            out=self.out,
            recipe=recipe,
            origin={"command": "align", "corpus_spec": self.data, "base": begin.identity, **contents},
            names={"base": named, "corpus": self.data, "tokenizer_fingerprint": named, **rewards},
            models=models,
            objective=objective,
            supply=supply,
            learning_rate=recipe.learning_rate or rate * begin.rate / self.folder.config.width,
            machine=self.machine,
            started=self.started,
            evaluate=evaluate,
            flops=lambda models: training_flops_per_token(models["model"], self.context),
            on_finish=on_finish,
            record={**begin.record, "context": self.context, **record},
            factor=(lambda name: 1.0) if self.adapter is None else self.adapter.rate,
            save=save or (None if self.adapter is None else self.save),
            begin=begin.note(self.out),
        )

    def save(self, models: Models, masters: Mapping[str, Tensor], record: Row) -> None:
        """Write the folder of what was trained: a model, or an adapter of one.

        Args:
            models: by name; "model" is what is saved.
            masters: the numbers of what was trained, in float32.
            record: for langwright.json.
        """
        model, tokenizer = models["model"], self.form.tokenizer
        if self.adapter is not None:
            self.begin.save(model, masters, self.out, record, tokenizer)
        else:
            save_model(model, tokenizer, self.out, record, {**dict(model.named_parameters()), **masters})


def without_dropout(model: nn.Module) -> None:
    """Switch off all that is random in training, for good: two passes over the same tokens are then the same."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith(DROPS) and isinstance(value, float):
                setattr(module, name, 0.0)


def held_out_terms(objective: Objective, supply: Supply, rows: int) -> Evaluate:
    """Measures the terms of an objective on held-out rows, and its loss.

    Args:
        objective: what is lowered, and measured.
        supply: with the rows.
        rows: how many there are.
    """

    def evaluate(models: Models, windows: int | None, stopped: Callable[[], bool]) -> Evaluation:
        model = models["model"]
        sums, seen = defaultdict[str, float](float), defaultdict[str, float](float)
        with torch.no_grad():
            for batch in supply.held_out(windows):
                if stopped():
                    return Evaluation({}, {})
                for name, count in objective.counts(batch).items():
                    seen[name] += float(count)
                for name, value in objective(models, batch.to(model.device)).items():
                    sums[name] += float(value)
        means = {name: sums[name] / max(count, 1.0) for name, count in seen.items()}
        loss = sum(weight * means[name] for name, weight in objective.weights.items())
        measured = {name: mean for name, mean in means.items() if name not in objective.weights}
        metrics = {f"validation_{name}": value for name, value in {"loss": loss, **measured}.items()}
        return Evaluation(metrics, {"loss": loss, **measured, "rows": rows})

    return evaluate
