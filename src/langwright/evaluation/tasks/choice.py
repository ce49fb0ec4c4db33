"""Multiple choice: which of several texts answers a question, or goes on from it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.choices import ChoiceRow, read_choices
from langwright.corpora.labelled import Columns
from langwright.data.examples import ExampleRows, Ids
from langwright.evaluation.tasks.task import Row, Task, is_cut, tell_cut, worst
from langwright.models.model import Model
from langwright.models.untrained import Origin
from langwright.objectives.choices import ChoiceBatch, Choosing
from langwright.text.tokenizer import Tokenizer
from langwright.training.recipe import FinetuneRecipe

SCORE = ("score",)
"""The one label of a head that says how well a choice fits."""


@dataclass(frozen=True)
class _Read:
    """A choice behind its question: its ids, how many at the end belong to the choice, the types, and what was cut."""

    ids: list[int]
    written: int
    types: list[int]
    cut: bool


@dataclass(frozen=True)
class Choice(Task):
    """Which of several texts answers a question: each pair is scored by a head of one output."""

    head: ClassVar[str] = "sequence"
    best: ClassVar[str] = "accuracy"

    @classmethod
    def read(cls, spec: str | Path, columns: Columns) -> list[ChoiceRow]:
        """The rows of a training file."""
        return read_choices(spec, columns)

    @classmethod
    def begin(cls, items: Sequence[ChoiceRow], columns: Columns, where: str) -> "Choice":
        """Any rows will do."""
        counts = sorted({len(item.choices) for item in items})
        say(f"{where}: {len(items):,} questions, each with {' or '.join(map(str, counts))} choices")
        return cls(columns, SCORE)

    def fitted(self, opened: Origin, tokenizer: Tokenizer, items: Sequence[Any], recipe: FinetuneRecipe) -> "Choice":
        """By a head of an encoder, by the likelihood of a decoder."""
        if opened.family.is_encoder_decoder:
            raise UserError(
                f"{opened.path}: {opened.family.name} is an encoder-decoder; --task choice is for one stack"
            )
        return LikeliestChoice(self.columns, ()) if opened.family.task == "language" else self

    @classmethod
    def from_record(cls, record: Mapping[str, Any], labels: Sequence[str]) -> "Choice":
        """The task of a record, whose head says how choices are scored."""
        kind = LikeliestChoice if record.get("head") == LikeliestChoice.head else Choice
        return kind(Columns(**record.get("columns", {})), tuple(labels))

    @classmethod
    def of(cls, model: Model) -> None:
        """No model is known to choose that does not say so."""
        return

    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[ChoiceRow]:
        """The rows of another file."""
        return read_choices(spec, columns, required=answered)

    def key(self, item: ChoiceRow) -> str:
        """The question and its choices."""
        return "\n".join((item.question, *item.choices))

    def rows(self, items: Sequence[ChoiceRow], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """Each question with all its choices; what is too long is cut, which is told."""
        made = [[self._reads(tokenizer, item.question, choice, context) for choice in item.choices] for item in items]
        gold = [item.gold or 0 for item in items]
        tell_cut(sum(any(one.cut for one in row) for row in made), len(items), "questions", context)
        content = hashlib.sha256()
        for row, right in zip(made, gold, strict=True):
            content.update(repr(([(one.ids, one.written) for one in row], right)).encode())
        sizes = np.array([max(len(one.ids) for one in row) for row in made], np.int64)
        return ExampleRows(
            lambda i, epoch: (made[i], gold[i]), sizes, context, {"choices": content.hexdigest()}, collate=_batch
        )

    def objective(self, recipe: FinetuneRecipe) -> Choosing:
        """Cross-entropy over the choices of a row."""
        return Choosing(recipe.smoothing)

    @torch.inference_mode()
    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[ChoiceRow]) -> list[Row]:
        """`label`, the number of a choice from 0, and `probabilities`, one for each."""
        numbers = np.arange(len(items))
        batch: Any = self.rows(items, tokenizer, model.window).batch(numbers, numbers)
        chances = batch.to(model.device).scores(model).softmax(-1).tolist()
        found = [row[: len(item.choices)] for row, item in zip(chances, items, strict=True)]
        return [{"label": row.index(max(row)), "probabilities": [round(p, 6) for p in row]} for row in found]

    def score(self, items: Sequence[ChoiceRow], answers: Sequence[Row]) -> dict[str, float]:
        """The share that is right."""
        right = [item.gold == answer["label"] for item, answer in zip(items, answers, strict=True)]
        return {"accuracy": float(np.mean(right))}

    def details(self, items: Sequence[ChoiceRow], answers: Sequence[Row]) -> Row:
        """The wrong choices that the model was surest of."""
        rows = [
            {
                "question": item.question[:300],
                "label": item.choices[item.gold or 0][:300],
                "said": item.choices[said][:300],
                "probability": answer["probabilities"][said] if said != item.gold else 0.0,
            }
            for item, answer in zip(items, answers, strict=True)
            for said in [answer["label"]]
        ]
        return {"errors": worst(rows, "probability")}

    def _reads(self, tokenizer: Tokenizer, question: str, choice: str, context: int) -> _Read:
        """A pair in the frame of an encoder; the longer text loses its end."""
        ids, types = tokenizer.frame(question, choice, limit=context)
        return _Read(ids, 0, types, is_cut(tokenizer, ids, context, question, choice))


@dataclass(frozen=True)
class LikeliestChoice(Choice):
    """Which of several texts is the likeliest one after a question, by log p(choice | question) as it is."""

    head: ClassVar[str] = "language"

    def _reads(self, tokenizer: Tokenizer, question: str, choice: str, context: int) -> _Read:
        """The choice after the question and a blank; the question loses its beginning, then the choice its end."""
        asked = [*tokenizer.opening, *tokenizer.encode(question.rstrip())]
        said = tokenizer.encode(" " + choice.lstrip())
        kept = said[: context - 1]
        ids = [*asked[max(0, len(asked) + len(kept) - context) :], *kept]
        return _Read(ids, min(len(kept), len(ids) - 1), [0] * len(ids), len(asked) + len(said) > context)


def _batch(rows: Sequence[Sequence[Any]], samples: Ids, width: Callable[[int], int]) -> ChoiceBatch:
    """Questions, one a row, as tensors, padding at the right."""
    made: list[tuple[list[_Read], int]] = [row for (row,) in rows]
    most = max(len(reads) for reads, _ in made)
    shape = len(made), most, width(max(len(one.ids) for reads, _ in made for one in reads))
    ids, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    mask, written, there = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape[:2], bool)
    mask[:, :, 0] = True  # what is not there reads one token, so that no row of attention is empty
    for i, (reads, _) in enumerate(made):
        for j, one in enumerate(reads):
            size = len(one.ids)
            ids[i, j, :size], types[i, j, :size] = one.ids, one.types
            mask[i, j, :size], written[i, j, size - one.written : size], there[i, j] = True, True, True
    return ChoiceBatch(
        ids=torch.from_numpy(ids),
        mask=torch.from_numpy(mask),
        written=torch.from_numpy(written),
        there=torch.from_numpy(there),
        gold=torch.tensor([gold for _, gold in made]),
        types=torch.from_numpy(types) if types.any() else None,
        samples=torch.from_numpy(samples),
    )
