"""A target text written from a source: translation and summarisation."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from langwright.base.errors import UserError, check_flag
from langwright.base.extras import need
from langwright.corpora.labelled import Columns
from langwright.corpora.pairs import Pair, open_pairs
from langwright.data.examples import Example, ExampleRows
from langwright.data.pairs import pair_rows
from langwright.data.pieces import Framing, Ids
from langwright.evaluation.tasks.task import ERRORS, Row, Task, tell_cut
from langwright.inference.generate import complete, tell_errors
from langwright.inference.sampling import Sampling, Search
from langwright.models.model import Frame, Model
from langwright.models.untrained import Origin
from langwright.objectives.language import TokenPrediction
from langwright.text.tokenizer import Tokenizer
from langwright.training.new_model import end_of, frame_of, framing
from langwright.training.recipe import FinetuneRecipe

SOURCE = "{source}"
"""Where the source stands in a template."""


@dataclass(frozen=True)
class Writing(Task):
    """A target text written from a source.

    An encoder reads the source and a decoder writes the target; or a decoder writes it behind the source, in a template
    whose tokens are not learnt.

    Args:
        template: what is written around the source.
        length: the most tokens of an answer unless something else is asked for: as many as the longest that was learnt.
        frame: how the texts of an encoder-decoder begin and end; None for a decoder.
        search: how answers are searched; the likeliest token each time unless there are beams.
        wanted: the most tokens of an answer, in place of `length`.
    """

    template: str = SOURCE
    length: int = 256
    frame: Frame | None = field(default=None, compare=False)
    search: Search = field(default=Search(), compare=False)
    wanted: int | None = field(default=None, compare=False)
    head: ClassVar[str] = "language"
    writes: ClassVar[bool] = True
    loss_settings: ClassVar[tuple[str, ...]] = ("smoothing", "z_loss", "balance")
    prompt: ClassVar[str]

    @classmethod
    def read(cls, spec: str | Path, columns: Columns) -> list[Pair]:
        """The pairs of two parallel files, or of two columns."""
        return list(open_pairs(str(spec), columns).pairs)

    @classmethod
    def begin(cls, items: Sequence[Pair], columns: Columns, where: str) -> "Writing":
        """Any pairs will do."""
        return cls(columns, ())

    def fitted(self, opened: Origin, tokenizer: Tokenizer, items: Sequence[Any], recipe: FinetuneRecipe) -> "Writing":
        """The task as this model does it, its answers as long as the longest of these rows."""
        frame = frame_of(opened.family, opened.config)
        longest = max(map(len, tokenizer.encode_batch([item.target for item in items])))
        around = 1 if frame is None else framing(frame, tokenizer).size
        return replace(self, template=self.prompt if frame is None else SOURCE, length=longest + around, frame=frame)

    @classmethod
    def of(cls, model: Model) -> "Writing | None":
        """An encoder-decoder of any origin writes targets."""
        return cls(Columns(), ()) if model.generates and model.encoders else None

    def searched(self, search: Search, max_new_tokens: int | None) -> "Writing":
        """The task with another search for answers, and another limit of their length."""
        check_flag("max_new_tokens", max_new_tokens, max_new_tokens is None or max_new_tokens >= 1, "at least 1")
        return replace(self, search=search, wanted=max_new_tokens)

    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[Pair]:
        """The pairs of another file; the sources alone where there need be no answers."""
        return list(open_pairs(str(spec), columns, answered).pairs)

    def key(self, item: Pair) -> str:
        """The source."""
        return item.source

    def text(self, item: Pair) -> str:
        """Both sides."""
        return f"{item.source}\n{item.target}"

    def rows(self, items: Sequence[Pair], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """Each pair as an example, of whose texts is cut what the context has no room for, which is told."""
        prompts, cut = self._prompts([item.source for item in items], tokenizer, context)
        targets = tokenizer.encode_batch([item.target for item in items])
        tell_cut(cut, len(items), "sources", context)
        if self.frame is not None:
            around = framing(self.frame, tokenizer)
            room = context - around.size
            made = [
                replace(around.pair(np.array((), np.int64), np.array(target[:room], np.int64)), source=prompt)
                for prompt, target in zip(prompts, targets, strict=True)
            ]
        else:
            room = self._most(context) - 1
            made = [
                _continued(prompt, [*target[:room], end_of(tokenizer)])
                for prompt, target in zip(prompts, targets, strict=True)
            ]
        tell_cut(sum(len(target) > room for target in targets), len(items), "targets", context)
        return pair_rows(made, context)

    def objective(self, recipe: FinetuneRecipe) -> TokenPrediction:
        """Cross-entropy of the tokens of targets."""
        return TokenPrediction(recipe.z_loss, recipe.compile, recipe.smoothing)

    def check(self, model: Model, tokenizer: Tokenizer, items: Sequence[Pair]) -> None:
        """Say how many sources do not fit."""
        sources = [item.source for item in items]
        _, cut = replace(self, frame=model.frame)._prompts(sources, tokenizer, model.window)
        tell_cut(cut, len(items), "sources", model.window)

    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[Pair]) -> list[Row]:
        """`text`: the likeliest token each time, or the best of some beams."""
        task = replace(self, frame=model.frame)
        prompts, _ = task._prompts([item.source for item in items], tokenizer, model.window)
        limit = self.wanted or (task._most(model.window) if model.frame is None else min(self.length, model.window - 1))
        ids = [prompt.tolist() for prompt in prompts]
        written = complete(model, tokenizer, ids, Sampling(temperature=0), limit, search=self.search)
        tell_errors(written)
        return [{"text": each.text.strip()} for each in written]

    def details(self, items: Sequence[Pair], answers: Sequence[Row]) -> Row:
        """The first answers, and how they were measured."""
        shown = zip(items[:ERRORS], answers, strict=False)
        return {
            "signature": self.signature,
            "examples": [{"source": i.source[:300], "target": i.target, "text": a["text"]} for i, a in shown],
        }

    def record(self) -> Row:
        """What makes the task again."""
        told = super().record()
        return {name: told[name] for name in ("columns", "template", "length")}

    @property
    @abstractmethod
    def signature(self) -> str:
        """How answers are measured."""

    def _most(self, context: int) -> int:
        """The most tokens of an answer that shares the context with its source: half of it, unless asked for."""
        return self.wanted or max(1, min(self.length, context // 2))

    def _prompts(self, sources: Sequence[str], tokenizer: Tokenizer, context: int) -> tuple[list[Ids], int]:
        """What is read of each source, template and special tokens included; and how many were cut."""
        before, after = (tokenizer.encode(part) for part in self.template.split(SOURCE))
        if self.frame is not None:
            around, taken = framing(self.frame, tokenizer), 0
        else:
            around, taken = Framing(tokenizer.prefix, ()), self._most(context)
        around = Framing((*around.first, *before), (*after, *around.last))
        room = context - around.size - taken
        if room < 1:
            raise UserError(
                f"a context of {context} tokens has no room for a source beside {around.size} tokens around it and "
                f"{taken} of an answer; raise --context or lower --max-new-tokens"
            )
        ids = tokenizer.encode_batch(list(sources))
        return [around.around(np.array(one[:room], np.int64)) for one in ids], sum(len(one) > room for one in ids)


@dataclass(frozen=True)
class Translate(Writing):
    """A text put into another language."""

    prompt: ClassVar[str] = SOURCE + "\n\nTranslation:\n"
    best: ClassVar[str] = "bleu"

    def score(self, items: Sequence[Pair], answers: Sequence[Row]) -> dict[str, float]:
        """BLEU (Papineni et al., 2002) and chrF (Popović, 2015) of all texts together, from 0 to 100."""
        found, truth = [answer["text"] for answer in answers], [item.target for item in items]
        return {name: metric.corpus_score(found, [truth]).score for name, metric in self._scored(found, truth).items()}

    @property
    def signature(self) -> str:
        """What sacrebleu wants to be told with its numbers."""
        scored = self._scored(["a"], ["a"])
        return "; ".join(f"{name} {metric.get_signature()}" for name, metric in scored.items())

    @staticmethod
    def _scored(found: Sequence[str], truth: Sequence[str]) -> dict[str, Any]:
        """The metrics, which have signatures once they have measured."""
        metrics = need("sacrebleu.metrics", "metrics", "--task translate")
        scored = {"bleu": metrics.BLEU(), "chrf": metrics.CHRF()}
        for metric in scored.values():
            metric.corpus_score(found, [truth])
        return scored


@dataclass(frozen=True)
class Summarise(Writing):
    """What matters of a text, in fewer words."""

    prompt: ClassVar[str] = SOURCE + "\n\nSummary:\n"
    best: ClassVar[str] = "rougeL"

    @classmethod
    def of(cls, model: Model) -> None:
        """No model is known to summarise that does not say so."""
        return

    def score(self, items: Sequence[Pair], answers: Sequence[Row]) -> dict[str, float]:
        """ROUGE (Lin, 2004), the mean over texts of F1 of words, of pairs of words, and of the longest subsequence."""
        library = need("rouge_score.rouge_scorer", "metrics", "--task summarise")
        names = ["rouge1", "rouge2", "rougeL"]
        scorer = library.RougeScorer(names, use_stemmer=True)
        found = [scorer.score(item.target, answer["text"]) for item, answer in zip(items, answers, strict=True)]
        return {name: float(np.mean([scores[name].fmeasure for scores in found])) for name in names}

    @property
    def signature(self) -> str:
        """The settings of the library."""
        return "rouge-score, F1, mean over texts, words stemmed as English"


def _continued(prompt: Ids, target: Sequence[int]) -> Example:
    """A target behind what it answers: only its own tokens are predicted."""
    ids = np.concatenate((prompt, np.array(target, np.int64)))
    return Example(ids[:-1], ids[len(prompt) :], at=np.arange(len(prompt) - 1, len(ids) - 1))
