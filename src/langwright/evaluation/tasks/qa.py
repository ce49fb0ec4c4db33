"""Question answering by a part of a text (extractive), or by saying that the answer is not in it."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.labelled import Columns
from langwright.corpora.questions import QuestionRow, read_questions
from langwright.data.examples import ExampleRows
from langwright.data.labels import LabelExample, label_rows
from langwright.evaluation.tasks.task import Reading, Row, logits_of, worst
from langwright.models.model import Model
from langwright.objectives.labels import Labelling
from langwright.text.tokenizer import Part, Tokenizer
from langwright.training.recipe import FinetuneRecipe

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Questions(Reading):
    """Which part of a text answers a question (SQuAD, Rajpurkar et al., 2016 and 2018).

    A long text is read in parts, each with the question before it and half of the last part in it. The first token,
    [CLS] of BERT, says that the answer is not in a part; of a model that reads from the left an end behind the part.

    Args:
        unanswerable: whether "not in the text" is an answer; it is if a question of the training file had none.
        longest: the most characters of an answer; those of the longest one in the training file.
    """

    unanswerable: bool = False
    longest: int = 200
    head: ClassVar[str] = "span"
    grouped: ClassVar[bool] = True

    loss_settings: ClassVar[tuple[str, ...]] = ()

    @property
    def best(self) -> str:
        """F1 of the words of answers."""
        return "f1"

    @classmethod
    def read(cls, spec: str | Path, columns: Columns) -> list[QuestionRow]:
        """The questions of a training file."""
        return read_questions(spec, columns)

    @classmethod
    def begin(cls, items: Sequence[QuestionRow], columns: Columns, where: str) -> "Questions":
        """The task of these questions."""
        lengths = [len(text) for item in items for _, text in item.answers or ()]
        without = sum(not item.answers for item in items)
        if not lengths:
            raise UserError(f"{where}: no question has an answer in its text; there is nothing to learn")
        about = f"{len({item.context for item in items}):,} texts"
        say(f"{where}: {len(items):,} questions about {about}, {without:,} of them without an answer")
        return cls(columns, (), unanswerable=without > 0, longest=max(lengths))

    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[QuestionRow]:
        """The questions of another file."""
        return read_questions(spec, columns, required=answered)

    def key(self, item: QuestionRow) -> str:
        """The article, or the text."""
        return item.group

    def text(self, item: QuestionRow) -> str:
        """The question and the text."""
        return f"{item.question} {item.context}"

    def rows(self, items: Sequence[QuestionRow], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """Each question with each part of its text, and where in it the first answer stands, if it does."""
        return _rows(
            [
                (part, self._bounds(part, *item.answers[0]) if item.answers else self._nowhere(part))
                for item in items
                for part in self._parts(item, tokenizer, context)
            ],
            context,
        )

    def objective(self, recipe: FinetuneRecipe) -> Labelling:
        """Cross-entropy of the first and of the last token, averaged."""
        return Labelling("span")

    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[QuestionRow]) -> list[Row]:
        """`answer`, and its `start` and `end` in the text; "", 0 and 0 where the answer is not in it."""
        parts = [self._parts(item, tokenizer, model.window) for item in items]
        rows = _rows([(part, self._nowhere(part)) for of in parts for part in of], model.window)
        scores, found = logits_of(model, rows, len(items)), []
        for item, of in zip(items, parts, strict=True):
            read = [(part, next(scores)) for part in of]
            score, start, end = max(self._span(part, logits) for part, logits in read)
            nowhere = min(float(logits[self._nowhere(part)[0]].sum()) for part, logits in read)
            if self.unanswerable and nowhere >= score:
                start = end = 0
            found.append({"answer": item.context[start:end], "start": start, "end": end})
        return found

    def _parts(self, item: QuestionRow, tokenizer: Tokenizer, context: int) -> list[Part]:
        """A question with each part of its text, and what a model that reads from the left says of both behind them."""
        if not self.causal:
            return tokenizer.frame_parts(item.question, item.context, context)
        end = tokenizer.eos_id
        if end is None:
            raise UserError("the tokenizer has no token that ends a text, which --task qa reads here")
        parts = tokenizer.frame_parts(item.question, item.context, context - 1)
        return [Part([*ids, end], [*types, types[-1]], [*places, None]) for ids, types, places in parts]

    def _nowhere(self, part: Part) -> tuple[int, int]:
        """The bounds that say that the answer is not in a part of the text."""
        at = len(part.ids) - 1 if self.causal else 0
        return at, at

    def _bounds(self, part: Part, start: int, text: str) -> tuple[int, int]:
        """The first and the last token of an answer in a part of a text that has all of it; else `_nowhere`."""
        end = start + len(text.rstrip())
        start = end - len(text.strip())
        read = [place for place in part.places if place is not None]
        if not read or start < read[0][0] or end > read[-1][1]:
            return self._nowhere(part)
        inside = [i for i, place in enumerate(part.places) if place is not None and place[1] > start and place[0] < end]
        return (inside[0], inside[-1]) if inside else self._nowhere(part)

    def _span(self, part: Part, logits: Float[Tensor, "time 2"]) -> tuple[float, int, int]:
        """The best score of a span of tokens, and the characters where it begins and ends."""
        at = [i for i, place in enumerate(part.places) if place is not None]
        if not at:  # of a text of blanks there is none
            return -torch.inf, 0, 0
        starts, ends = torch.tensor([part.places[i] for i in at]).T
        both = logits[at, 0, None] + logits[None, at, 1]  # [first, last]
        fits = (ends - starts[:, None] <= self.longest).triu()
        fits |= torch.eye(len(at), dtype=torch.bool)  # a token that is too long alone
        first, last = divmod(int(both.masked_fill(~fits, -torch.inf).argmax()), len(at))
        return float(both[first, last]), int(starts[first]), int(ends[last])

    def score(self, items: Sequence[QuestionRow], answers: Sequence[Row]) -> dict[str, float]:
        """Exact match and F1 of words, each the best over the answers that a question has."""
        pairs = [(answer["answer"], _texts(item)) for item, answer in zip(items, answers, strict=True)]
        scores = {
            "exact_match": float(np.mean([max(exact_match(said, text) for text in texts) for said, texts in pairs])),
            "f1": float(np.mean([max(word_f1(said, text) for text in texts) for said, texts in pairs])),
        }
        if self.unanswerable:
            right = [bool(item.answers) == bool(said) for item, (said, _) in zip(items, pairs, strict=True)]
            scores["answerable_accuracy"] = float(np.mean(right))
        return scores

    def details(self, items: Sequence[QuestionRow], answers: Sequence[Row]) -> Row:
        """Questions with a wrong answer, by what their F1 lacks."""
        rows = [
            {
                "text": item.question[:300],
                "label": _texts(item)[0],
                "said": answer["answer"][:300],
                "error": 1 - max(word_f1(answer["answer"], text) for text in _texts(item)),
            }
            for item, answer in zip(items, answers, strict=True)
        ]
        return {"errors": worst(rows, "error")}


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: small letters, without punctuation, English articles and blanks to spare."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(said: str, truth: str) -> float:
    """1 where both answers are equal once normalised, else 0."""
    return float(normalised(said) == normalised(truth))


def word_f1(said: str, truth: str) -> float:
    """F1 of the words that both normalised answers have; of no words, 1 where neither has any."""
    found, right = normalised(said).split(), normalised(truth).split()
    if not found or not right:
        return float(found == right)
    common = (Counter(found) & Counter(right)).total()
    return 2 * common / (len(found) + len(right))


def _rows(parts: Sequence[tuple[Part, tuple[int, int]]], context: int) -> ExampleRows:
    """Parts of texts with the first and the last token of an answer; the loss is the mean of both."""
    weights = np.full(2, 0.5, np.float32)
    return label_rows(
        [LabelExample(np.array(p.ids), np.array(bounds), weights, np.array(p.types)) for p, bounds in parts], context
    )


def _texts(item: QuestionRow) -> list[str]:
    """The answers of a question; "" where there is none."""
    return [text for _, text in item.answers or ()] or [""]
