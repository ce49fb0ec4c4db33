"""Labels of texts, of tokens and of spans: their batches, and what is lowered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from langwright.objectives.batch import Batch, Models, real_tokens

Form = Literal["one", "several", "number", "span"]


@dataclass(frozen=True)
class LabelBatch(Batch):
    """Texts with labels.

    Args:
        ids: token ids.
        labels: of each text, [batch], or [batch, labels] of 0 and 1; of each token, [batch, time]; or the first and the
            last token of a span, [batch, 2].
        weights: how much each label counts, in the shape of the losses; 0 for padding.
        mask: true where `ids` holds a real token; None when all are.
        types: the type of each token, where texts are pairs.
        samples: the sample number of each row.
    """

    ids: Int[Tensor, "batch time"]
    labels: Shaped[Tensor, "batch *labels"]
    weights: Float[Tensor, "batch *losses"]
    mask: Bool[Tensor, "batch time"] | None = None
    types: Int[Tensor, "batch time"] | None = None
    samples: Int[Tensor, " batch"] | None = None

    def inputs(self, counted: Tensor) -> Tensor:
        """All that is read."""
        return real_tokens(self.ids, self.mask)

    def logits(self, model: Any) -> Float[Tensor, "batch *logits"]:
        """What the head of a model makes of the texts."""
        return model(self.ids, self.mask, types=self.types if model.typed else None)


@dataclass(frozen=True)
class SeriesBatch(Batch):
    """Series with one label each.

    Args:
        series: their numbers.
        labels, weights: see `LabelBatch`.
        mask: true where the vectors that a model makes of a series are not padding.
        samples: the sample number of each row.
    """

    series: Float[Tensor, "batch time channels"]
    labels: Int[Tensor, " batch"]
    weights: Float[Tensor, " batch"]
    mask: Bool[Tensor, "batch length"]
    samples: Int[Tensor, " batch"] | None = None

    def inputs(self, counted: Tensor) -> Tensor:
        """All vectors."""
        return self.mask.sum(dtype=torch.float32)

    def logits(self, model: Any) -> Float[Tensor, "batch labels"]:
        """What the head of a model makes of the series."""
        return model(self.series, self.mask)


@dataclass(frozen=True)
class Labelling:
    """The loss of labels: cross-entropy of one, binary cross-entropy of several, squared error of a number.

    Args:
        form: one label a text or token, several a text, a number, or the bounds of a span.
        smoothing: the share of a label that is spread over all of them.
    """

    form: Form = "one"
    smoothing: float = 0.0
    weights: ClassVar[Mapping[str, float]] = {"labels": 1.0}

    def counts(self, batch: LabelBatch | SeriesBatch) -> dict[str, Tensor]:
        """How many labels there are, by their weights."""
        return {"labels": batch.weights.sum()}

    def __call__(self, models: Models, batch: LabelBatch | SeriesBatch) -> dict[str, Tensor]:
        """The sum over a batch."""
        losses = label_losses(batch.logits(models["model"]), batch.labels, self.form, batch.mask, self.smoothing)
        return {"labels": (losses * batch.weights).sum()}


def label_losses(
    logits: Float[Tensor, "batch *logits"],
    labels: Shaped[Tensor, "batch *labels"],
    form: Form,
    mask: Bool[Tensor, "batch time"] | None = None,
    smoothing: float = 0.0,
) -> Float[Tensor, "batch *losses"]:
    """The loss of each label, in nats or squared units, in float32.

    Args:
        logits: [batch, labels]; of tokens [batch, time, labels]; of spans [batch, time, 2].
        labels: see `LabelBatch`.
        form: see `Labelling`.
        mask: of the tokens; a span begins and ends at a real one.
        smoothing: see `Labelling`.
    """
    logits = logits.float()
    if form == "number":
        return (logits[:, 0] - labels.float()).square()
    if form == "several":
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    if form == "span":
        logits = span_logits(logits, mask)
    flat = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=smoothing)
    return flat.view(labels.shape)


def span_logits(
    logits: Float[Tensor, "batch time 2"], mask: Bool[Tensor, "batch time"] | None
) -> Float[Tensor, "batch 2 time"]:
    """The scores of each token as the first and as the last one of a span; padding is never either."""
    scores = logits.float().transpose(1, 2)
    return scores if mask is None else scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
