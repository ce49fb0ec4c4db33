"""A task as what a run of fine-tuning learns: its supply, and what is measured."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.corpora.labelled import Columns
from langwright.corpora.parts import parts_to_learn
from langwright.data.order import Layout
from langwright.data.supply import Batches, Supply, evaluation_batches
from langwright.evaluation.tasks.scores import print_scores
from langwright.evaluation.tasks.task import Row, Task
from langwright.models.families import FAMILIES
from langwright.models.model import Model
from langwright.models.tasks import tasks
from langwright.models.untrained import Origin, Untrained
from langwright.objectives.batch import Models, Objective
from langwright.text.tokenizer import Tokenizer
from langwright.training.recipe import FinetuneRecipe
from langwright.training.trainer import Evaluate, Evaluation

PREDICTIONS = "predictions.jsonl"
LOSS_SETTINGS = ("smoothing", "z_loss", "balance", "temperature")
"""Settings that only some losses have; see `Task.loss_settings`."""


@dataclass(frozen=True)
class TaskData:
    """A task with its rows.

    Args:
        task: what is asked.
        training: the rows that are learnt from.
        held_out: those that are measured.
        corpus: what identifies them; see the record of a corpus.
        recipe: how it is learnt.
        out: the folder of the run.
        latest: the answers that were measured last; in the end those to all held-out rows.
    """

    task: Task
    training: Sequence[Any]
    held_out: Sequence[Any]
    corpus: Row
    recipe: FinetuneRecipe
    out: Path
    latest: list[Row] = field(default_factory=list)

    @property
    def head(self) -> str:
        """What the head is for."""
        return self.task.head

    @property
    def labels(self) -> tuple[str, ...]:
        """What it tells apart."""
        return self.task.labels

    @property
    def best(self) -> str:
        """The metric of the held-out rows that chooses which weights are kept."""
        return f"validation_{self.task.best}"

    def fresh(self, name: str) -> tuple[Untrained, Tokenizer]:
        """A new model for the rows, of a family or preset, and its tokenizer."""
        return self.task.fresh(name, self.training, self.recipe)

    def fitted(self, opened: Origin, tokenizer: Tokenizer) -> "TaskData":
        """The task as this model learns it."""
        if self.task.reads != opened.family.reads:
            told = f"--task {self.recipe.task} is for models that read {self.task.reads}, not {opened.family.reads}"
            raise UserError(f"{opened.path}: {told}")
        task = self.task.fitted(opened, tokenizer, self.training, self.recipe)
        if task.head not in tasks(opened.family):
            able = ", ".join(name for name, row in FAMILIES.items() if task.head in tasks(row))
            told = f'--task {self.recipe.task} needs the head "{task.head}", which {opened.family.name} lacks'
            raise UserError(f"{opened.path}: {told}; choose one of {able}")
        for name in LOSS_SETTINGS:
            if (value := getattr(self.recipe, name)) and name not in task.loss_settings:
                told = f"means nothing for the loss of --task {self.recipe.task} on these rows; leave it out"
                raise UserError(f"--{name.replace('_', '-')} {value}: {told}")
        return replace(self, task=task)

    def supply(self, tokenizer: Tokenizer, layout: Layout, context: int) -> Supply:
        """The rows as batches to learn from, and to measure."""
        seen = self.task.examples(self.training, tokenizer, context)
        measured = self.task.rows(self.held_out, tokenizer, context)
        return Supply(
            tokenizer,
            Batches(seen, layout, by_length=not self.task.coupled),
            lambda limit: evaluation_batches(measured, layout.batch_size, limit),
            measured.inputs,
            None,
            self.corpus,
            prompt=None,
        )

    def objective(self) -> Objective:
        """What is lowered."""
        return self.task.objective(self.recipe)

    def evaluate(self, supply: Supply) -> Evaluate:
        """Measures loss and metrics on all held-out rows.

        Answers that are written take long: the metrics that choose the best weights are those of at most so many rows
        as the recipe's validation windows, evenly spread and always the same. What is recorded in the end is of all.
        """
        task, objective, count = self.task, self.objective(), len(self.held_out)
        if task.writes:
            count = min(self.recipe.validation_windows, count)
        some = [i * len(self.held_out) // count for i in range(count)]
        few = [self.held_out[i] for i in some]
        if count < len(self.held_out):
            say(f"during training, answers to {count:,} of {len(self.held_out):,} held-out rows are written")

        def evaluate(models: Models, windows: int | None, stopped: Callable[[], bool]) -> Evaluation:
            model = models["model"]
            items = few if windows is not None else self.held_out
            answers = list(task.predict(model, supply.tokenizer, items, stopped=stopped))
            if stopped():
                return Evaluation({}, {})
            total = seen = 0.0
            with torch.inference_mode():
                for batch in supply.held_out(None):
                    here = batch.to(model.device)
                    total += sum(float(value) for value in objective(models, here).values())
                    seen += float(next(iter(objective.counts(batch).values())))
            found = scores = {"loss": total / seen, **task.score(items, answers)}
            if len(answers) > count:
                scores = {**found, **task.score(few, [answers[i] for i in some])}
            self.latest[:] = answers
            metrics = {f"validation_{name}": value for name, value in scores.items()}
            return Evaluation(metrics, {**found, "rows": len(self.held_out)})

        return evaluate

    def finish(self, trained: Model, before: Callable[[], Model], supply: Supply, context: int) -> Row:
        """Writes what the finished model says of the held-out rows, and gives the details for the record."""
        if self.task.signature:
            say(self.task.signature)
        lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in self.latest)
        write_atomic(self.out / PREDICTIONS, lines)
        return {"details": self.task.details(self.held_out, self.latest)}

    def record(self) -> Row:
        """The task, so that the model is used for it again."""
        name = self.recipe.task
        return {"task": {"name": name, "head": self.head, "labels": list(self.labels), **self.task.record()}}

    def tell(self, record: Row, as_json: bool) -> None:
        """The metrics."""
        print_scores(record["held_out"], as_json)

    def use(self, model: str) -> str:
        """The verb, and the answers that were written."""
        return f" (langwright predict {model} FILE), {self.out / PREDICTIONS}"


def task_data(kind: type[Task], spec: str, columns: Columns, recipe: FinetuneRecipe, out: Path) -> TaskData:
    """The rows of a training file, and those that are held out of it, or of a validation file.

    Args:
        kind: of task.
        spec: the training file.
        columns: which of its columns hold what.
        recipe: how it is learnt, with split and validation file.
        out: the folder of the run.

    Raises:
        UserError: Names file and row of what cannot be read or learnt, or a split that leaves nothing.
    """
    split = recipe.split
    if recipe.validation is not None and split is not None:
        raise UserError("--split and --validation exclude each other")
    spec, validation = parts_to_learn(spec, recipe.validation, split)
    task, items = kind.pose(spec, columns, recipe)
    if validation is not None:
        training, held_out, told = items, task.reread(validation, columns, answered=True), validation
        if not held_out:
            raise UserError(f"{validation}: no row is left to measure")
    else:
        told = split or task.usual_split
        training, held_out = task.split(items, told, spec)
        counts = f"{len(training):,} rows to learn from, {len(held_out):,} held out"
        say(f"{spec}: {counts} ({told}; --validation FILE names others)")
    characters, size = (sum(counts) for counts in zip(*map(task.size, items), strict=True))
    content = hashlib.sha256()
    for item in (*training, None, *held_out):
        content.update((b"None" if item is None else task.content(item)) + b"\n")
    corpus = {
        "name": spec, "kind": "rows", "files": 1 if validation is None else 2, "documents": len(items),
        "characters": characters, "bytes": size,
        "hash": content.hexdigest(), "spec": spec, "split": told, "field": "text",
    }  # fmt: skip
    return TaskData(task, training, held_out, corpus, recipe, out)
