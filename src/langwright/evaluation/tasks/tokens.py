"""Classification of words: named entities, parts of speech."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from langwright.base.console import say, warn
from langwright.base.errors import UserError
from langwright.base.extras import need
from langwright.corpora.labelled import Columns, label_names
from langwright.corpora.tagged import TaggedRow, read_tagged
from langwright.data.examples import ExampleRows
from langwright.data.labels import LabelExample, label_rows
from langwright.evaluation.tasks.task import Reading, Row, logits_of, worst
from langwright.models.model import Model
from langwright.objectives.labels import Labelling
from langwright.text.tokenizer import Tokenizer
from langwright.training.recipe import FinetuneRecipe

OUTSIDE = "O"
"""The tag of a word that belongs to no entity."""
_ENTITY = re.compile(r"[BIES]-.")


@dataclass(frozen=True)
class Tokens(Reading):
    """Which tag each word of a sentence has.

    The first sub-word of a word is labelled and asked, the others are only read; of a model that reads from the left
    the last one, which has read the whole word. A word of which the tokenizer leaves nothing, such as a control
    character, has the tag O, or the first one.
    """

    head: ClassVar[str] = "token"

    @property
    def entities(self) -> bool:
        """Whether tags say where entities begin (B-), go on (I-, E-) or stand alone (S-), and what is outside (O)."""
        marked = [label for label in self.labels if label != OUTSIDE]
        return bool(marked) and all(map(_ENTITY.match, marked))

    @property
    def best(self) -> str:
        """F1 of entities, or the accuracy of tags that mark none."""
        return "entity_f1" if self.entities else "accuracy"

    @classmethod
    def read(cls, spec: str | Path, columns: Columns) -> list[TaggedRow]:
        """The sentences of a training file."""
        return read_tagged(spec, columns)

    @classmethod
    def begin(cls, items: Sequence[TaggedRow], columns: Columns, where: str) -> "Tokens":
        """The task of these sentences."""
        labels = label_names(items, where)
        counts = Counter(tag for row in items for tag in row.tags)
        shown = ", ".join(f"{name} {counts[name]:,}" for name in labels[:12]) + (" ..." if len(labels) > 12 else "")
        say(f"{where}: {len(items):,} sentences, {counts.total():,} words: {shown}")
        return cls(columns, tuple(labels))

    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[TaggedRow]:
        """The sentences of another file, with tags that the model knows."""
        return read_tagged(spec, columns, known=self.labels, required=answered)

    def key(self, item: TaggedRow) -> str:
        """The words."""
        return " ".join(item.words)

    def rows(self, items: Sequence[TaggedRow], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """Each sentence in its frame; longer ones in several, with every word in one of them."""
        examples = [
            self._example(piece, item.tags) for item in items for piece in self._pieces(item.words, tokenizer, context)
        ]
        if len(examples) > len(items):
            warn(f"{len(items):,} sentences are read in {len(examples):,} pieces of at most {context} tokens")
        return label_rows(examples, context, by_token=True)

    def objective(self, recipe: FinetuneRecipe) -> Labelling:
        """Cross-entropy of the tag of each word."""
        return Labelling("one", recipe.smoothing)

    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[TaggedRow]) -> list[Row]:
        """`tags`, one a word."""
        rest = OUTSIDE if OUTSIDE in self.labels else self.labels[0]
        tags = [[rest] * len(item.words) for item in items]
        pieces = [(i, p) for i, item in enumerate(items) for p in self._pieces(item.words, tokenizer, model.window)]
        rows = label_rows([self._example(piece) for _, piece in pieces], model.window, by_token=True)
        for (i, piece), scores in zip(pieces, logits_of(model, rows, len(items)), strict=True):
            for word, best in zip(piece.words, scores[piece.at].argmax(-1).tolist(), strict=True):
                tags[i][word] = self.labels[best]
        return [{"tags": row} for row in tags]

    def score(self, items: Sequence[TaggedRow], answers: Sequence[Row]) -> dict[str, float]:
        """F1, precision and recall of entities, and the accuracy of tags; or that and macro F1."""
        truth, found = _sides(items, answers)
        if self.entities:
            metrics = need("seqeval.metrics", "metrics", "--task tokens")
            return {
                "entity_f1": float(metrics.f1_score(truth, found, zero_division=0)),
                "entity_precision": float(metrics.precision_score(truth, found, zero_division=0)),
                "entity_recall": float(metrics.recall_score(truth, found, zero_division=0)),
                "accuracy": float(metrics.accuracy_score(truth, found)),
            }
        metrics, right, said = need("sklearn.metrics", "metrics", "--task tokens"), _flat(truth), _flat(found)
        return {
            "accuracy": float(metrics.accuracy_score(right, said)),
            "macro_f1": float(
                metrics.f1_score(right, said, average="macro", labels=list(self.labels), zero_division=0)
            ),
        }

    def details(self, items: Sequence[TaggedRow], answers: Sequence[Row]) -> Row:
        """Scores of each kind of entity, or of each tag; and sentences by the share of their words that is wrong."""
        truth, found = _sides(items, answers)
        if self.entities:
            report = need("seqeval.metrics", "metrics", "--task tokens").classification_report
            table = report(truth, found, output_dict=True, zero_division=0)
        else:
            report = need("sklearn.metrics", "metrics", "--task tokens").classification_report
            table = report(_flat(truth), _flat(found), labels=list(self.labels), output_dict=True, zero_division=0)
        wrong = [
            [(word, tag, said) for word, tag, said in zip(item.words, item.tags, tags, strict=True) if tag != said]
            for item, tags in zip(items, found, strict=True)
        ]
        rows = [
            {
                "text": " ".join(item.words)[:300],
                "label": ", ".join(f"{word} {tag}" for word, tag, _ in faults),
                "said": ", ".join(f"{word} {said}" for word, _, said in faults),
                "error": len(faults) / len(item.words),
            }
            for item, faults in zip(items, wrong, strict=True)
        ]
        names = {"precision": "precision", "recall": "recall", "f1": "f1-score", "rows": "support"}
        kinds = {name: row for name, row in table.items() if isinstance(row, dict) and not name.endswith(" avg")}
        scores = {kind: {ours: float(row[theirs]) for ours, theirs in names.items()} for kind, row in kinds.items()}
        return {"by_label": scores, "errors": worst(rows, "error")}

    def _pieces(self, words: Sequence[str], tokenizer: Tokenizer, context: int) -> Iterator["_Piece"]:
        """A sentence in frames of at most `context` ids, each with as many whole words as it has room for."""
        ids, of = tokenizer.frame_words(words)
        free = context - sum(word is None for word in of)
        if free < 1:
            raise UserError(f"a context of {context} tokens has no room for a word; give a longer --context")
        sizes = Counter(of)
        start = room = 0
        bounds = []
        for word in range(len(words)):
            if word and room + sizes[word] > free:
                bounds.append((start, word))
                start, room = word, 0
            room += sizes[word]
        for first, end in (*bounds, (start, len(words))):
            if bounds or len(ids) > context:
                ids, of = tokenizer.frame_words(words[first:end], limit=context)
            places = list(enumerate(of))
            at = {word: place for place, word in (places if self.causal else places[::-1]) if word is not None}
            yield _Piece(ids, [first + word for word in sorted(at)], [at[word] for word in sorted(at)])

    def _example(self, piece: "_Piece", tags: Sequence[str] = ()) -> LabelExample:
        """A piece with the tags of its sentence, if it has any."""
        labels, weights = np.zeros(len(piece.ids), np.int64), np.zeros(len(piece.ids), np.float32)
        if tags:
            labels[piece.at] = [self.labels.index(tags[word]) for word in piece.words]
            weights[piece.at] = 1
        return LabelExample(np.array(piece.ids), labels, weights)


@dataclass(frozen=True)
class _Piece:
    """Words of a sentence in a frame.

    Args:
        ids: the token ids.
        words: the numbers of those that are asked for.
        at: where the sub-word of each stands that is labelled.
    """

    ids: list[int]
    words: list[int]
    at: list[int]


def _sides(items: Sequence[TaggedRow], answers: Sequence[Row]) -> tuple[list[list[str]], list[list[str]]]:
    """The tags of all sentences, and what was said."""
    return [list(item.tags) for item in items], [answer["tags"] for answer in answers]


def _flat(rows: Sequence[Sequence[str]]) -> list[str]:
    """All tags in one list."""
    return [tag for row in rows for tag in row]
