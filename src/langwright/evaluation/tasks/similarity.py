"""How alike two texts are: the cosine of their vectors."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.labelled import Columns, LabelledRow, read_labelled
from langwright.data.examples import ExampleRows, Ids, padded
from langwright.evaluation.tasks.scores import correlations, number
from langwright.evaluation.tasks.task import Row, Task, is_cut, tell_cut, worst
from langwright.models.model import Model
from langwright.models.untrained import Origin
from langwright.objectives.similarity import Contrast, CosineError, SimilarityBatch
from langwright.text.tokenizer import Tokenizer
from langwright.training.recipe import FinetuneRecipe


@dataclass(frozen=True)
class Similarity(Task):
    """How alike two texts are, of each of which the model makes a vector.

    Args:
        form: learnt from scores, or from pairs that belong together, against the others of the batch.
        low, high: the scores that mean cosines of 0 and of 1.
        temperature: what cosines are divided by, for pairs.
    """

    form: Literal["scores", "pairs"] = "scores"
    low: float = 0.0
    high: float = 1.0
    temperature: float = 0.05
    head: ClassVar[str] = "embedding"
    coupled: ClassVar[bool] = True

    @property
    def best(self) -> str:
        """The rank correlation; of pairs without scores the loss."""
        return "spearman" if self.form == "scores" else "loss"

    @property
    def loss_settings(self) -> tuple[str, ...]:
        """Of a contrast its temperature."""
        return ("temperature",) if self.form == "pairs" else ()

    @classmethod
    def read(cls, spec: str | Path, columns: Columns) -> list[LabelledRow]:
        """Rows of two texts, all with a score or none."""
        return cls._checked(read_labelled(spec, columns, required=False))

    @staticmethod
    def _checked(rows: list[LabelledRow]) -> list[LabelledRow]:
        for row in rows:
            if row.second is None:
                raise UserError(f"{row.source}: a pair of texts is needed; --text-field and --second-field name them")
            if bool(row.labels) != bool(rows[0].labels):
                raise UserError(f"{(rows[0] if row.labels else row).source}: there is no score, as in other rows")
            if row.labels:
                number(row)
        return rows

    @classmethod
    def begin(cls, items: Sequence[LabelledRow], columns: Columns, where: str) -> "Similarity":
        """With scores they are learnt; without, which texts belong together."""
        if not items[0].labels:
            say(f"{where}: {len(items):,} pairs without scores: each is told from the others of its batch")
            return cls(columns, (), "pairs")
        scores = [number(item) for item in items]
        low, high = min(0.0, *scores), max(1.0, *scores)
        say(f"{where}: {len(items):,} pairs, whose scores from {low:g} to {high:g} mean cosines from 0 to 1")
        return cls(columns, (), "scores", low, high)

    def fitted(
        self, opened: Origin, tokenizer: Tokenizer, items: Sequence[Any], recipe: FinetuneRecipe
    ) -> "Similarity":
        """The task with the temperature of a recipe; UserError where the recipe cuts batches whose rows are coupled."""
        if self.form == "scores":
            return self
        if recipe.micro_batch is not None:
            raise UserError(
                f"--micro-batch {recipe.micro_batch}: would change what each pair is told from; leave it out"
            )
        if recipe.parallel != "none":
            raise UserError(f"--parallel {recipe.parallel}: would change what each pair is told from; leave it out")
        return replace(self, temperature=recipe.temperature or self.temperature)

    @classmethod
    def of(cls, model: Model) -> "Similarity | None":
        """A model of sentence-transformers compares texts."""
        return cls(Columns(), ()) if model.task == cls.head else None

    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[LabelledRow]:
        """The rows of another file."""
        rows = self._checked(read_labelled(spec, columns, required=False, unread=not answered))
        if answered and self.form == "scores" and not rows[0].labels:
            raise UserError(f"{rows[0].source}: there is no score; --label-field names its column")
        return rows

    def key(self, item: LabelledRow) -> str:
        """Both texts."""
        return item.whole

    def rows(self, items: Sequence[LabelledRow], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """Each pair; texts that are too long lose their ends, which is told."""
        content, cut = hashlib.sha256(), 0
        made: list[tuple[Ids, Ids, np.float32]] = []
        for item in items:
            texts = item.text, item.second or ""
            sides = [np.array(tokenizer.frame(text, limit=context)[0], np.int64) for text in texts]
            cut += any(is_cut(tokenizer, side, context, text) for side, text in zip(sides, texts, strict=True))
            score = np.float32(self._cosine(item))
            for side in sides:
                content.update(side.size.to_bytes(8, "little") + side.tobytes())
            content.update(score.tobytes())
            made.append((sides[0], sides[1], score))
        tell_cut(cut, len(items), "pairs", context)
        sizes = np.array([max(first.size, second.size) for first, second, _ in made], np.int64)
        return ExampleRows(lambda i, epoch: made[i], sizes, context, {"labels": content.hexdigest()}, collate=_batch)

    def objective(self, recipe: FinetuneRecipe) -> CosineError | Contrast:
        """Squared error of the cosine, or a contrast with the other pairs of the batch."""
        return CosineError() if self.form == "scores" else Contrast(self.temperature)

    @torch.inference_mode()
    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[LabelledRow]) -> list[Row]:
        """`score`: the cosine."""
        numbers = np.arange(len(items))
        batch: Any = self.rows([i._replace(labels=()) for i in items], tokenizer, model.window).batch(numbers, numbers)
        first, second = batch.to(model.device).vectors(model)
        return [{"score": round(score, 6)} for score in (first * second).sum(-1).tolist()]

    def score(self, items: Sequence[LabelledRow], answers: Sequence[Row]) -> dict[str, float]:
        """Spearman's and Pearson's correlation with the scores; the mean cosine where there are none."""
        said = [answer["score"] for answer in answers]
        if not items[0].labels:
            return {"mean_cosine": float(np.mean(said))}
        found = correlations([number(item) for item in items], said)
        return {name: found[name] for name in ("spearman", "pearson")}

    def details(self, items: Sequence[LabelledRow], answers: Sequence[Row]) -> Row:
        """The pairs whose cosine is farthest from what their score means."""
        if not items[0].labels:
            return {}
        rows = [
            {
                "first": item.text[:300],
                "second": (item.second or "")[:300],
                "score": number(item),
                "said": self.low + answer["score"] * (self.high - self.low),
                "error": abs(self._cosine(item) - answer["score"]),
            }
            for item, answer in zip(items, answers, strict=True)
        ]
        return {"errors": worst(rows, "error")}

    def _cosine(self, item: LabelledRow) -> float:
        """What the score of a pair means; 0 where it has none."""
        return (number(item) - self.low) / (self.high - self.low) if item.labels else 0.0


def _batch(rows: Sequence[Sequence[Any]], samples: Ids, width: Callable[[int], int]) -> SimilarityBatch:
    """Pairs, one a row, as tensors, padding at the right."""
    pairs = [pair for (pair,) in rows]
    sides: list[torch.Tensor] = []
    masks: list[torch.Tensor | None] = []
    for ids in ([pair[side] for pair in pairs] for side in (0, 1)):
        size = width(max(map(len, ids)))
        real = padded([[np.ones(len(one), bool)] for one in ids], size)
        sides.append(torch.from_numpy(padded([[one] for one in ids], size)))
        masks.append(None if real.all() else torch.from_numpy(real))
    scores = torch.from_numpy(np.stack([pair[2] for pair in pairs]))
    return SimilarityBatch(sides[0], sides[1], scores, masks[0], masks[1], torch.from_numpy(samples))
