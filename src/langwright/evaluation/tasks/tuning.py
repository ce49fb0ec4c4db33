"""A task as what a run of fine-tuning learns: its supply, and what is measured."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.corpora.labelled import Columns
from langwright.corpora.splits import split_items
from langwright.data.order import Layout
from langwright.data.supply import Batches, Supply, evaluation_batches
from langwright.evaluation.tasks.task import Row, Task
from langwright.objectives.batch import Models
from langwright.text.tokenizer import Tokenizer
from langwright.training.trainer import Evaluation

SPLIT = "10%"
"""What is held out of the rows, unless there is a file for that."""
PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class TaskData:
    """A task with its rows.

    Args:
        task: what is asked.
        training: the rows that are learnt from.
        held_out: those that are measured.
        record: what identifies them; see the record of a corpus.
        latest: the answers that were measured last; in the end those to all held-out rows.
    """

    task: Task
    training: Sequence[Any]
    held_out: Sequence[Any]
    record: Row
    latest: list[Row] = field(default_factory=list)

    def supply(self, tokenizer: Tokenizer, layout: Layout, context: int) -> Supply:
        """The rows as batches to learn from, and to measure."""
        seen = self.task.examples(self.training, tokenizer, context)
        measured = self.task.rows(self.held_out, tokenizer, context)
        return Supply(
            tokenizer,
            Batches(seen, layout, by_length=True),
            lambda limit: evaluation_batches(measured, layout.batch_size, limit),
            measured.inputs,
            None,
            self.record,
            prompt=None,
        )

    def evaluate(self, supply: Supply, smoothing: float = 0.0, written: int | None = None) -> Callable[..., Evaluation]:
        """Measures loss and metrics on all held-out rows.

        Answers that are written take long: the metrics that choose the best weights are those of at most `written`
        rows, evenly spread and always the same. What is recorded in the end is of all.
        """
        task, objective = self.task, self.task.objective(smoothing)
        count = min(written or len(self.held_out), len(self.held_out)) if task.writes else len(self.held_out)
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
            loss = {"loss": total / seen}
            chosen_by = {"negative_loss": -total / seen} if task.best == "negative_loss" else {}
            chosen = answers if windows is not None else [answers[i] for i in some]
            scores = {**loss, **chosen_by, **task.score(few, chosen)}
            self.latest[:] = answers
            return Evaluation(
                {f"validation_{name}": value for name, value in scores.items()},
                self._told({**loss, **task.score(items, answers)}),
            )

        return evaluate

    def finish(self, supply: Supply, out: Path) -> Callable[[Models], Row]:
        """Writes what the finished model says of the held-out rows, and gives the details for the record."""

        def finish(models: Models) -> Row:
            answers = self.latest
            if self.task.signature:
                say(self.task.signature)
            lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
            write_atomic(out / PREDICTIONS, lines)
            return {"details": self.task.details(self.held_out, answers)}

        return finish

    def _told(self, scores: dict[str, float]) -> Row:
        return {**scores, "rows": len(self.held_out)}


def task_data(kind: type[Task], spec: str, validation: str | None, split: str | None, columns: Columns) -> TaskData:
    """The rows of a training file, and those that are held out of it, or of a validation file.

    Raises:
        UserError: Names file and row of what cannot be read or learnt, or a split that leaves nothing.
    """
    items = kind.read(spec, columns)
    task = kind.begin(items, columns, spec)
    if validation is not None:
        if split is not None:
            raise UserError("--split and --validation exclude each other")
        training, held_out, told = items, task.reread(validation, columns, answered=True), validation
        if not held_out:
            raise UserError(f"{validation}: no row is left to measure")
    else:
        told = split or SPLIT
        training, held_out = split_items(items, told, task.key, spec=spec, what="rows", grouped=task.grouped)
        counts = f"{len(training):,} rows to learn from, {len(held_out):,} held out"
        say(f"{spec}: {counts} ({told}; --validation FILE names others)")
    texts = [task.text(item) for item in items]
    content = hashlib.sha256()
    for item in (*training, None, *held_out):
        content.update(repr(item).encode() + b"\n")
    record = {
        "name": spec, "kind": "rows", "files": 1 if validation is None else 2, "documents": len(items),
        "characters": sum(map(len, texts)), "bytes": sum(len(text.encode()) for text in texts),
        "hash": content.hexdigest(), "spec": spec, "split": told, "field": "text",
    }  # fmt: skip
    return TaskData(task, training, held_out, record)
