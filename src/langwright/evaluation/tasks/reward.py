"""Rewards: what a model makes of answers to prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from langwright.base.errors import UserError
from langwright.corpora.labelled import Columns
from langwright.corpora.preferences import Judged, Preference, Prompt, Ranking, read_items, read_preference
from langwright.data.examples import ExampleRows
from langwright.data.preferences import RankedExample, fitted, format_of, ranked_rows
from langwright.evaluation.tasks.task import Row, Task, tell_cut
from langwright.models.model import Model
from langwright.objectives.batch import Objective
from langwright.objectives.preferences import RewardModelling
from langwright.text.tokenizer import Tokenizer
from langwright.training.recipe import FinetuneRecipe


@dataclass(frozen=True)
class Reward(Task):
    """What an answer to a prompt is worth.

    Args:
        format: how prompts and answers become tokens; see `AnswerFormat`.
        shift, scale: a reward is (score - shift) / scale.
    """

    format: str = "text"
    shift: float = 0.0
    scale: float = 1.0
    head: ClassVar[str] = "sequence"

    @property
    def best(self) -> str:
        """How often a pair is in order."""
        return "accuracy"

    @classmethod
    def of(cls, model: Model) -> None:
        """A head says too little of how prompts were read."""
        return

    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[Any]:
        """Rows with answers: compared, ranked, or one for each prompt."""
        if columns.given:
            told = "the columns of prompts and answers have fixed names"
            raise UserError(f"--{columns.given[0].replace('_', '-')}: {told}")
        items = read_items(str(spec), partial(read_preference, equal=not answered), skip=None)
        for item in items:
            if answered and not isinstance(item, Preference | Ranking):
                raise UserError(f"{item.source}: compares nothing; needed are chosen with rejected, or answers")
            if not _answers(item):
                raise UserError(f"{item.source}: no answer to score")
        return items

    def key(self, item: Any) -> str:
        """The prompt."""
        return str(item.key)

    def rows(self, items: Sequence[Any], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """Each answer behind its prompt; UserError that names the row of a prompt that leaves no room for one."""
        return ranked_rows(self._examples(items, tokenizer, context), context)

    def check(self, model: Model, tokenizer: Tokenizer, items: Sequence[Any]) -> None:
        """Say how many answers lose their ends."""
        answers = [one for row in self._examples(items, tokenizer, model.window) for one in row.answers]
        tell_cut(sum(one.cut for one in answers), len(answers), "answers", model.window)

    def _examples(self, items: Sequence[Any], tokenizer: Tokenizer, context: int) -> list[RankedExample]:
        form = format_of(self.format, tokenizer, "the tokenizer")
        return [
            RankedExample(
                tuple(fitted(form, item.prompt, answer, context, source=item.source) for answer in _answers(item))
            )
            for item in items
        ]

    def objective(self, recipe: FinetuneRecipe) -> Objective:
        """Scores in order."""
        return RewardModelling()

    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[Any]) -> list[Row]:
        """`reward`; of rows with several answers `rewards`, in the order of the answers, the best one first."""
        rows = self.rows(items, tokenizer, model.window)
        batch: Any = rows.batch(np.arange(len(items)), np.arange(len(items))).to(model.device)
        scores = ((batch.scores(model) - self.shift) / self.scale).tolist()
        found = [row[: len(_answers(item))] for row, item in zip(scores, items, strict=True)]
        return [
            {"reward": row[0]} if isinstance(item, Prompt | Judged) else {"rewards": row}
            for row, item in zip(found, items, strict=True)
        ]

    def score(self, items: Sequence[Any], answers: Sequence[Row]) -> dict[str, float]:
        """The share of pairs of answers to one prompt that are in order, a tie counting half."""
        shares = []
        for answer in answers:
            rewards = np.array(answer["rewards"])
            first, second = np.triu_indices(len(rewards), 1)
            shares.append(((np.sign(rewards[first] - rewards[second]) + 1) / 2).mean())
        return {"accuracy": float(np.mean(shares))}


def _answers(item: Any) -> tuple[str, ...]:
    match item:
        case Preference():
            return item.chosen, item.rejected
        case Ranking():
            return item.answers
    return () if item.answer is None else (item.answer,)
