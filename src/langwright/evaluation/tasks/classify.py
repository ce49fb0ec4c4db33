"""Classification of texts and of pairs: one label, several, or a number."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from langwright.base.console import say, warn
from langwright.base.errors import UserError
from langwright.base.extras import need
from langwright.corpora.augmentation import changes_named, varied
from langwright.corpora.labelled import Columns, LabelledRow, label_names, read_labelled
from langwright.data.examples import ExampleRows
from langwright.data.labels import LabelExample, label_batch, label_rows
from langwright.evaluation.tasks.scores import correlations, number
from langwright.evaluation.tasks.task import Row, Task, is_cut, logits_of, tell_cut, worst
from langwright.models.model import Model
from langwright.models.untrained import Origin
from langwright.objectives.labels import Labelling
from langwright.text.tokenizer import Tokenizer
from langwright.training.recipe import FinetuneRecipe


@dataclass(frozen=True)
class Classify(Task):
    """Which label, or labels, a text or a pair of texts has; or which number.

    Args:
        form: one label a row, several, or a number.
        augment: changes of the texts that are learnt from, of which each row has another in each epoch, or none.
        seed: of the choice.
    """

    form: Literal["one", "several", "number"] = "one"
    augment: tuple[str, ...] = ()
    seed: int = 0
    head: ClassVar[str] = "sequence"

    @property
    def best(self) -> str:
        """Of several labels macro F1, which no label without rows can lift."""
        return {"one": "accuracy", "several": "macro_f1", "number": "spearman"}[self.form]

    @property
    def loss_settings(self) -> tuple[str, ...]:
        """What is spread over labels is that of one label."""
        return ("smoothing",) if self.form == "one" else ()

    @classmethod
    def read(cls, spec: str | Path, columns: Columns) -> list[LabelledRow]:
        """The rows of a training file; a list of labels in one row makes all of them lists."""
        return read_labelled(spec, columns, several=True)

    @classmethod
    def begin(cls, items: Sequence[LabelledRow], columns: Columns, where: str) -> "Classify":
        """The task of these rows: several labels if a row has a list of another length than one, else one.

        Numbers are values to be met where one of them is not whole.
        """
        single = [row.labels[0] for row in items if len(row.labels) == 1]
        if (
            len(single) == len(items)
            and all(map(_is_number, single))
            and not all(text.removeprefix("-").isdecimal() for text in single)
        ):
            say(f"{where}: {len(items):,} rows, each with a number")
            return cls(columns, ("value",), "number")
        several = any(len(row.labels) != 1 for row in items)
        labels = label_names(items, where)
        counts = Counter(label for row in items for label in row.labels)
        shown = ", ".join(f"{name} {counts[name]:,}" for name in labels[:12]) + (" ..." if len(labels) > 12 else "")
        say(f"{where}: {len(items):,} rows, {'several labels each' if several else 'one label each'}: {shown}")
        return cls(columns, tuple(labels), "several" if several else "one")

    def fitted(self, opened: Origin, tokenizer: Tokenizer, items: Sequence[Any], recipe: FinetuneRecipe) -> "Classify":
        """The task with the changes that a recipe asks for."""
        if opened.family.is_encoder_decoder and tokenizer.frame("a")[0][-1] != tokenizer.eos_id:
            raise UserError(
                f"{opened.path}: the tokenizer puts no end behind a text, by which {opened.family.name} tells"
            )
        names = changes_named([] if recipe.augment is None else [recipe.augment])
        return replace(self, augment=tuple(names), seed=recipe.seed)

    def record(self) -> Row:
        """What makes the task again: nothing of how it was learnt."""
        return {name: value for name, value in super().record().items() if name not in ("augment", "seed")}

    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[LabelledRow]:
        """The rows of another file, with labels that the model knows."""
        known = None if self.form == "number" else self.labels
        rows = read_labelled(spec, columns, known=known, several=self.form == "several", unread=not answered)
        if answered and self.form == "one" and (missing := set(self.labels) - {row.label for row in rows}):
            warn(f"{spec}: no row is labelled {', '.join(sorted(missing))}")
        return rows

    def key(self, item: LabelledRow) -> str:
        """The text, or both."""
        return item.whole

    def rows(self, items: Sequence[LabelledRow], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """Each row in its frame; longer ones lose their ends, which is told."""
        examples = [self._example(item, tokenizer, context) for item in items]
        each = zip(items, examples, strict=True)
        cut = sum(is_cut(tokenizer, example.ids, context, item.text, item.second) for item, example in each)
        tell_cut(cut, len(items), "texts", context)
        return label_rows(examples, context)

    def examples(self, items: Sequence[LabelledRow], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """The same; with changes that seed, epoch and row decide, so that a resumed run sees the same ones."""
        rows = self.rows(items, tokenizer, context)
        if not self.augment:
            return rows
        own = tokenizer.extended([], tokenizer.special_tokens)  # batches are made in a thread of their own

        def make(number: int, epoch: int) -> LabelExample:
            item, key = items[number], f"{self.seed}:{epoch}:{number}"
            text = varied(item.text, self.augment, f"{key}:text")
            second = None if item.second is None else varied(item.second, self.augment, f"{key}:second")
            return self._example(item._replace(text=text, second=second), own, context)

        identity = {**rows.record(), "augment": list(self.augment)}
        return ExampleRows(make, rows.lengths(np.arange(len(rows))), context, identity, collate=label_batch)

    def objective(self, recipe: FinetuneRecipe) -> Labelling:
        """Cross-entropy, binary cross-entropy averaged over the labels, or squared error."""
        return Labelling(self.form, recipe.smoothing)

    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[LabelledRow]) -> list[Row]:
        """`label` and `probabilities`; `labels` where there may be several; or `value`."""
        blank = [item._replace(labels=()) for item in items]
        return self.said(torch.stack(list(logits_of(model, self.rows(blank, tokenizer, model.window), len(items)))))

    def said(self, logits: Tensor) -> list[Row]:
        """The answers that logits [rows, labels] are."""
        if self.form == "number":
            return [{"value": value} for value in logits[:, 0].tolist()]
        chances = logits.sigmoid() if self.form == "several" else logits.softmax(-1)
        return [self._answer(row) for row in chances.tolist()]

    def _answer(self, chances: Sequence[float]) -> Row:
        probabilities = {name: round(p, 6) for name, p in zip(self.labels, chances, strict=True)}
        if self.form == "several":
            return {"labels": [name for name, p in probabilities.items() if p >= 0.5], "probabilities": probabilities}
        return {"label": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities}

    def score(self, items: Sequence[LabelledRow], answers: Sequence[Row]) -> dict[str, float]:
        """Accuracy, macro F1, Matthews correlation, and AUROC of two labels."""
        metrics = need("sklearn.metrics", "metrics", "--task classify")
        if self.form == "number":
            return correlations([number(item) for item in items], [answer["value"] for answer in answers])
        if self.form == "several":
            right, said = (
                np.array([[name in labels for name in self.labels] for labels in side])
                for side in ([item.labels for item in items], [answer["labels"] for answer in answers])
            )
            return {
                "accuracy": float(metrics.accuracy_score(right, said)),
                "macro_f1": float(metrics.f1_score(right, said, average="macro", zero_division=0)),
                "micro_f1": float(metrics.f1_score(right, said, average="micro", zero_division=0)),
            }
        truth, found = [item.label for item in items], [answer["label"] for answer in answers]
        scores = {
            "accuracy": float(metrics.accuracy_score(truth, found)),
            "macro_f1": float(
                metrics.f1_score(truth, found, average="macro", labels=list(self.labels), zero_division=0)
            ),
            "matthews": float(metrics.matthews_corrcoef(truth, found)) if len({*truth, *found}) > 1 else 0.0,
        }
        if len(self.labels) == 2 and len(set(truth)) == 2:
            chances = [answer["probabilities"][self.labels[1]] for answer in answers]
            scores["auroc"] = float(metrics.roc_auc_score([label == self.labels[1] for label in truth], chances))
        return scores

    def details(self, items: Sequence[LabelledRow], answers: Sequence[Row]) -> Row:
        """The confusion matrix, rows being the truth, and the largest errors, or those that the model was surest of."""
        by = "probability" if self.form == "one" else "error"
        details: Row = {"errors": worst(map(self._fault, items, answers), by)}
        if self.form != "one":
            return details
        pairs = Counter((item.label, answer["label"]) for item, answer in zip(items, answers, strict=True))
        return details | {"confusion": [[pairs[truth, said] for said in self.labels] for truth in self.labels]}

    def _fault(self, item: LabelledRow, answer: Row) -> Row:
        """A row, what was said of it, and how wrong that is: 0 where it is right."""
        if self.form == "number":
            said, fault = f"{answer['value']:.4g}", {"error": abs(number(item) - answer["value"])}
        elif self.form == "several":
            said, off = ", ".join(answer["labels"]), set(item.labels) ^ set(answer["labels"])
            fault = {"error": len(off) / len(self.labels)}
        else:
            said = answer["label"]
            fault = {"probability": answer["probabilities"][said] if said != item.label else 0.0}
        return {"text": item.whole[:300], "label": ", ".join(item.labels), "said": said, **fault}

    def _example(self, item: LabelledRow, tokenizer: Tokenizer, context: int) -> LabelExample:
        """A row in its frame, of which the end may be cut off."""
        ids, types = tokenizer.frame(item.text, item.second, limit=context)
        labels = self._target(item)
        weights = np.full(labels.shape, 1 / max(1, labels.size) if self.form == "several" else 1.0, np.float32)
        return LabelExample(np.array(ids), labels, weights, np.array(types))

    def _target(self, item: LabelledRow) -> Any:
        """What is to be learnt of a row; zeros where it has no label."""
        if self.form == "several":
            return np.array([name in item.labels for name in self.labels], np.float32)
        if self.form == "number":
            return np.array(number(item) if item.labels else 0.0, np.float32)
        return np.array(self.labels.index(item.label) if item.labels else 0)


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text)).item()
    except ValueError:
        return False
