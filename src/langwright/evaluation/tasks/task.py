"""What a task is: rows of a file, examples of them, an objective, predictions, and what measures them."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from langwright.base.console import progress, warn
from langwright.base.errors import UserError
from langwright.corpora.labelled import Columns
from langwright.corpora.splits import split_items
from langwright.data.supply import Rows
from langwright.inference.sampling import Search
from langwright.models.model import Model
from langwright.models.untrained import Origin, Untrained
from langwright.objectives.batch import Objective
from langwright.text.tokenizer import Tokenizer
from langwright.training.new_model import untrained
from langwright.training.recipe import FinetuneRecipe

Row = dict[str, Any]
ERRORS = 20
"""Examples in a report."""


@dataclass(frozen=True)
class Task:
    """What is asked of a model about each row of a file: a frozen dataclass that a model's record holds.

    Attributes:
        head: what the head of a model is for that answers; see `load_model`.
        writes: whether answers are written token by token, so that few of them are asked for during training.
        coupled: whether the loss of a row depends on the others of its batch, which are then drawn from all rows.
        grouped: whether rows with equal keys stay on one side of a split in order too.
        reads: what the models take that do it; see `Family`.
        usual_split: what is held out of the rows, unless something is said or there is a file for that.

    Args:
        columns: which columns of a file hold what.
        labels: the names of the answers, where a head has one output for each.
    """

    head: ClassVar[str]
    writes: ClassVar[bool] = False
    coupled: ClassVar[bool] = False
    grouped: ClassVar[bool] = False
    reads: ClassVar[Literal["text", "series"]] = "text"
    usual_split: ClassVar[str] = "10%"
    columns: Columns
    labels: tuple[str, ...]

    @property
    @abstractmethod
    def best(self) -> str:
        """The metric that chooses which weights are kept; the higher the better, but for "loss"."""

    @property
    def loss_settings(self) -> tuple[str, ...]:
        """The settings of a recipe that mean something for its loss, of those that do not for every one."""
        return ("smoothing",)

    @classmethod
    def read(cls, spec: str | Path, columns: Columns) -> list[Any]:
        """The rows of a training file; UserError that names file and row of what cannot be read."""
        raise NotImplementedError

    @classmethod
    def begin(cls, items: Sequence[Any], columns: Columns, where: str) -> "Task":
        """The task that the rows of a training file pose; UserError where there is nothing to learn in them."""
        raise NotImplementedError

    @classmethod
    def pose(cls, spec: str, columns: Columns, recipe: FinetuneRecipe) -> tuple["Task", list[Any]]:
        """The task that a training file poses, and its rows; of `read` and `begin` where no recipe matters."""
        items = cls.read(spec, columns)
        return cls.begin(items, columns, spec), items

    def split(self, items: Sequence[Any], split: str, spec: str) -> tuple[list[Any], list[Any]]:
        """The rows to learn from, and those that are held out; UserError where there are none on a side."""
        return split_items(items, split, self.key, spec=spec, what="rows", grouped=self.grouped)

    def fitted(self, opened: Origin, tokenizer: Tokenizer, items: Sequence[Any], recipe: FinetuneRecipe) -> "Task":
        """The task as this model learns it from these rows; UserError where it cannot, or not by this recipe."""
        return self

    def fresh(self, name: str, items: Sequence[Any], recipe: FinetuneRecipe) -> tuple[Untrained, Tokenizer]:
        """A new model for these rows, of a family or preset, and its tokenizer."""
        return untrained(name, recipe, [self.text(item) for item in items])

    @classmethod
    def of(cls, model: Model) -> "Task | None":
        """The task of a model whose record names none, where its head says enough."""
        return cls.from_record({}, model.labels) if cls.head == model.task else None

    def searched(self, search: Search, max_new_tokens: int | None) -> "Task":
        """The task with another search for answers that are written; UserError where none are."""
        if search != Search() or max_new_tokens is not None:
            raise UserError("--beams, --max-new-tokens and the like are for tasks whose answers are written")
        return self

    @abstractmethod
    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[Any]:
        """The rows of another file for the same task.

        Args:
            spec: the file, folder or glob.
            columns: which columns hold what.
            answered: whether every row must have its answer.

        Raises:
            UserError: Names file and row of what cannot be read, and of an answer that the model does not know.
        """

    @abstractmethod
    def key(self, item: Any) -> str:
        """The text of a row by which it is split: by content, rows with equal ones are never on both sides."""

    def text(self, item: Any) -> str:
        """The text that a row holds."""
        return self.key(item)

    def content(self, item: Any) -> bytes:
        """What identifies a row."""
        return repr(item).encode()

    def size(self, item: Any) -> tuple[int, int]:
        """The characters and bytes of a row, which the record counts."""
        text = self.text(item)
        return len(text), len(text.encode())

    @abstractmethod
    def rows(self, items: Sequence[Any], tokenizer: Tokenizer, context: int) -> Rows:
        """The rows as examples to learn from, or to measure the loss on."""

    def examples(self, items: Sequence[Any], tokenizer: Tokenizer, context: int) -> Rows:
        """The rows to learn from, where they are not those to measure."""
        return self.rows(items, tokenizer, context)

    @abstractmethod
    def objective(self, recipe: FinetuneRecipe) -> Objective:
        """What is lowered."""

    def check(self, model: Model, tokenizer: Tokenizer, items: Sequence[Any]) -> None:
        """Say what the model will not read of some rows, before it answers."""
        return

    @abstractmethod
    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[Any]) -> list[Row]:
        """What the model says of some rows: one JSON object each."""

    @abstractmethod
    def score(self, items: Sequence[Any], answers: Sequence[Row]) -> dict[str, float]:
        """Metrics of the answers to rows that have theirs, by the names that the literature gives them."""

    @property
    def signature(self) -> str | None:
        """How metrics were computed, where their names do not say it."""
        return None

    def details(self, items: Sequence[Any], answers: Sequence[Row]) -> Row:
        """More for the report and the record: a confusion matrix, examples of errors."""
        return {}

    def record(self) -> Row:
        """What makes the task again; see `from_record`."""
        return {name: value for name, value in asdict(self).items() if name != "labels"}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], labels: Sequence[str]) -> "Task":
        """The task of a record and of the labels of a model."""
        names = {field.name for field in fields(cls)} - {"columns", "labels"}
        given = {name: value for name, value in record.items() if name in names}
        more = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(Columns(**record.get("columns", {})), tuple(labels), **more)

    def predict(
        self, model: Model, tokenizer: Tokenizer, items: Sequence[Any], batch_size: int = 32,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Row]:  # fmt: skip
        """The answers to all rows, in their order, as they come.

        Args:
            model: with the head for the task.
            tokenizer: the model's.
            items: the rows.
            batch_size: rows in a forward pass.
            stopped: whether to break off.
        """
        with progress("predicting", len(items), "rows") as advance:
            for start in range(0, len(items), batch_size):
                if stopped():
                    return
                part = items[start : start + batch_size]
                yield from self.answers(model, tokenizer, part)
                advance(len(part))


def is_cut(tokenizer: Tokenizer, ids: Sized, context: int, text: str, second: str | None = None) -> bool:
    """Whether a text, or a pair, lost its end where its frame was made to fit a context."""
    return len(ids) == context and len(tokenizer.frame(text, second)[0]) > context


def tell_cut(cut: int, count: int, what: str, context: int) -> None:
    """Warn of texts that were cut, if there are any."""
    if cut:
        warn(f"{cut:,} of {count:,} {what} are longer than {context} tokens and are cut; --context may be raised")


def worst(rows: Iterable[Row], by: str) -> list[Row]:
    """Examples of errors for a report: the rows with the highest numbers of this name, without those of 0."""
    return sorted((row for row in rows if row[by] > 0), key=lambda row: -row[by])[:ERRORS]


@dataclass(frozen=True)
class Reading(Task):
    """A task whose answers are read off tokens.

    Args:
        causal: no token knows of those after it, so that a word is asked at its last sub-word, and a text behind it.
    """

    causal: bool = False

    def fitted(self, opened: Origin, tokenizer: Tokenizer, items: Sequence[Any], recipe: FinetuneRecipe) -> "Task":
        """The task as a model of this family does it."""
        return replace(self, causal=opened.family.is_decoder)

    @classmethod
    def of(cls, model: Model) -> "Task | None":
        """The task of a model with the head for it."""
        return cls.from_record({"causal": model.causal}, model.labels) if cls.head == model.task else None


def logits_of(model: Model, rows: Rows, batch_size: int) -> Iterator[Tensor]:
    """What the head of a model makes of each row, in float32 on the CPU; the rows may be wider than their texts."""
    for start in range(0, len(rows), batch_size):
        numbers = np.arange(start, min(start + batch_size, len(rows)))
        batch: Any = rows.batch(numbers, numbers).to(model.device)
        with torch.inference_mode():
            logits = batch.logits(model).float().cpu()
        yield from logits
