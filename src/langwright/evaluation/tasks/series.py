"""Classification of series of several channels, such as the activities that sensors record."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.labelled import Columns, LabelledRow, label_names
from langwright.corpora.recordings import Recording, read_recordings
from langwright.corpora.splits import split_groups
from langwright.data.examples import ExampleRows, Ids
from langwright.evaluation.tasks.classify import Classify
from langwright.evaluation.tasks.task import Row, Task, logits_of
from langwright.media.series import Scale, Series, stacked, window_starts
from langwright.models.families import FAMILIES, SERIES
from langwright.models.families.series import HEAD, SeriesConfig, able
from langwright.models.model import Model
from langwright.models.untrained import Origin, Untrained
from langwright.objectives.labels import Labelling, SeriesBatch
from langwright.text.tokenizer import Tokenizer, no_tokenizer
from langwright.training.new_model import new_shape
from langwright.training.recipe import FinetuneRecipe, NewModelRecipe

WINDOW = 128
"""Samples of a window unless given; half of them belong to the next window too."""
SAMPLES = 4
"""Samples that make a vector of a new model."""


class Window(NamedTuple):
    """A piece of a recording.

    Args:
        values: [time, channels], as they were recorded.
        labels: its label, or none where it need not be known.
        subject: whose it is.
        source: the recording.
        start: its first sample there.
    """

    values: Series
    labels: tuple[str, ...]
    subject: str
    source: str
    start: int

    @property
    def row(self) -> LabelledRow:
        """What it is, and where."""
        return LabelledRow(f"{self.source}, sample {self.start}", None, self.labels, self.source)


@dataclass(frozen=True)
class SeriesLabels(Task):
    """Which label a window of a series has; no subject is both learnt from and measured.

    Args:
        channels: the names of the channels.
        window, step: samples of a window, and from one window to the next.
        mean, deviation: of each channel where it was learnt, by which it is scaled.
        samples: how many make one vector in the model.
    """

    channels: tuple[str, ...] = ()
    window: int = WINDOW
    step: int = WINDOW // 2
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    samples: int = SAMPLES
    head: ClassVar[str] = HEAD
    reads: ClassVar[Literal["text", "series"]] = "series"
    best: ClassVar[str] = "accuracy"
    usual_split: ClassVar[str] = "25%"

    @classmethod
    def pose(cls, spec: str, columns: Columns, recipe: FinetuneRecipe) -> tuple["SeriesLabels", list[Window]]:
        """The task of the recordings of a file, and their windows."""
        channels, recordings = read_recordings(spec, columns)
        window = recipe.context or WINDOW
        task = cls(columns, (), channels=channels, window=window, step=max(1, window // 2))
        items = task._windows(recordings)
        labels = label_names(items, spec)
        counts = Counter(label for item in items for label in item.labels)
        say(
            f"{spec}: {len(recordings):,} recordings of {len(channels)} channels; {len(items):,} windows of {window} "
            f"samples: {', '.join(f'{name} {counts[name]:,}' for name in labels)}"
        )
        return cls(columns, tuple(labels), channels=channels, window=window, step=task.step), items

    def split(self, items: Sequence[Window], split: str, spec: str) -> tuple[list[Window], list[Window]]:
        """By subject; those that are held out are named."""
        training, held_out = split_groups(items, split, self.key, spec=spec, what="subject")
        names = sorted({item.subject for item in held_out})
        say(f"{spec}: held out {'is' if len(names) == 1 else 'are'} {', '.join(names)}")
        return training, held_out

    def fresh(self, name: str, items: Sequence[Window], recipe: FinetuneRecipe) -> tuple[Untrained, Tokenizer]:
        """A new model with the layers of a family."""
        usual = NewModelRecipe()
        if (recipe.tokenizer, recipe.vocabulary) != (usual.tokenizer, usual.vocabulary):
            raise UserError("--tokenizer and --vocabulary: are for texts; leave them out with --task series")
        family, body = new_shape(name, recipe, 1, -(-self.window // self.samples))
        if family not in able(FAMILIES):
            told = f"--task series is not for {family}; choose one of {', '.join(able(FAMILIES))}"
            raise UserError(f"new:{name}: {told}")
        config = SeriesConfig(len(self.channels), self.samples, self.window, family, body)
        return Untrained(Path(f"new:{name}"), SERIES, config, FAMILIES[family].rate), no_tokenizer()

    def fitted(
        self, opened: Origin, tokenizer: Tokenizer, items: Sequence[Window], recipe: FinetuneRecipe
    ) -> "SeriesLabels":
        """The task with the scale of the windows that are learnt."""
        config = opened.config
        if recipe.method != "full":
            raise UserError(f"--method {recipe.method}: models of series are trained as a whole")
        if (config.channels, config.window) != (len(self.channels), self.window):
            raise UserError(
                f"{opened.path}: reads windows of {config.window} samples of {config.channels} channels, and these are "
                f"{self.window} of {len(self.channels)}; --context {config.window} makes such windows"
            )
        scale = Scale.of(item.values for item in items)
        return replace(self, mean=scale.mean, deviation=scale.deviation, samples=config.samples)

    def reread(self, spec: str | Path, columns: Columns, answered: bool) -> list[Window]:
        """The windows of another file."""
        known = self.labels if answered else None
        _, recordings = read_recordings(spec, columns, known=known, required=answered, channels=self.channels)
        return self._windows(recordings)

    def key(self, item: Window) -> str:
        """The subject."""
        return item.subject

    def content(self, item: Window) -> bytes:
        """All numbers."""
        return repr(item.row).encode() + item.values.tobytes()

    def size(self, item: Window) -> tuple[int, int]:
        """No text, but bytes."""
        return 0, item.values.nbytes

    def rows(self, items: Sequence[Window], tokenizer: Tokenizer, context: int) -> ExampleRows:
        """Each window in the scale of the task."""
        made = [(item.values, self.labels.index(item.labels[0]) if item.labels else 0) for item in items]
        sizes = np.array([-(-len(values) // self.samples) for values, _ in made], np.int64)
        content = hashlib.sha256(repr((self.mean, self.deviation)).encode())
        for values, label in made:
            content.update(values.tobytes() + label.to_bytes(4, "little"))
        identity = {"series": content.hexdigest()}
        return ExampleRows(lambda i, epoch: made[i], sizes, context, identity, collate=self._batch)

    def answers(self, model: Model, tokenizer: Tokenizer, items: Sequence[Window]) -> list[Row]:
        """`label` and `probabilities`, and which window it is."""
        rows = self.rows([item._replace(labels=()) for item in items], tokenizer, self.window)
        said = self._labelling.said(torch.stack(list(logits_of(model, rows, len(items)))))
        where = [{"recording": item.source, "start": item.start} for item in items]
        return [{**answer, **at} for answer, at in zip(said, where, strict=True)]

    def objective(self, recipe: FinetuneRecipe) -> Labelling:
        """Cross-entropy."""
        return self._labelling.objective(recipe)

    def score(self, items: Sequence[Window], answers: Sequence[Row]) -> dict[str, float]:
        """Accuracy, macro F1, Matthews correlation."""
        return self._labelling.score([item.row for item in items], answers)

    def details(self, items: Sequence[Window], answers: Sequence[Row]) -> Row:
        """The confusion matrix, errors, and how each subject fares."""
        right: dict[str, list[bool]] = {}
        for item, answer in zip(items, answers, strict=True):
            right.setdefault(item.subject, []).append(item.labels[0] == answer["label"])
        each = {name: {"accuracy": float(np.mean(row)), "rows": len(row)} for name, row in sorted(right.items())}
        return {**self._labelling.details([item.row for item in items], answers), "by_subject": each}

    @property
    def _labelling(self) -> Classify:
        """Classification as such."""
        return Classify(self.columns, self.labels)

    def _windows(self, recordings: Sequence[Recording]) -> list[Window]:
        """All windows, those of recordings that are too short padded when they are read."""
        return [
            Window(each.values[start : start + self.window], labels, each.subject, each.source, start)
            for each in recordings
            for labels in [() if each.label is None else (each.label,)]
            for start in window_starts(len(each.values), self.window, self.step)
        ]

    def _batch(
        self, rows: Sequence[Sequence[tuple[Series, int]]], samples: Ids, width: Callable[[int], int]
    ) -> SeriesBatch:
        """Windows as tensors, zeros behind short ones, which are the mean of each channel."""
        scale, made = Scale(self.mean, self.deviation), [one for (one,) in rows]
        series = stacked([scale(values) for values, _ in made], self.window)
        sizes = np.array([-(-len(values) // self.samples) for values, _ in made])
        return SeriesBatch(
            series=torch.from_numpy(series),
            labels=torch.tensor([label for _, label in made]),
            weights=torch.ones(len(made)),
            mask=torch.from_numpy(np.arange(-(-self.window // self.samples)) < sizes[:, None]),
            samples=torch.from_numpy(samples),
        )
