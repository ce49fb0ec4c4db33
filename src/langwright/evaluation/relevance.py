"""How much a question helps a model to the answer."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.data.chat import Example, batch_of
from langwright.models.model import Model
from langwright.objectives.losses import token_losses


def answer_difficulty(
    model: Model, examples: Sequence[Example], bos: int | None, batch_size: int = 16
) -> NDArray[np.float64]:
    """For each example, the loss of its answer after the question over that of the answer alone.

    The instruction-following difficulty of Li et al. ("From quantity to quality", 2023): far below 1 the question
    tells almost all, near 1 it does not help, and above 1 question and answer hardly belong together. An answer's own
    first token is not counted where there is no bos to predict it from. Both are means over tokens in nats.
    """
    alone = [_alone(example, bos) for example in examples]
    return _losses(model, examples, batch_size) / _losses(model, alone, batch_size).clip(1e-6)


def _alone(example: Example, bos: int | None) -> Example:
    """The trained tokens without the others."""
    ids = example.ids[example.trained]
    trained = np.ones(len(ids), np.bool_)
    if bos is not None or len(ids) == 1:  # an answer of a single token is predicted from itself
        first = ids[0] if bos is None else bos
        ids, trained = np.concatenate(([first], ids)).astype(np.int32), np.concatenate(([False], trained))
    return Example(ids, trained, example.source)


@torch.no_grad()
def _losses(model: Model, examples: Sequence[Example], batch_size: int) -> NDArray[np.float64]:
    """The mean loss of the trained tokens of each example, in nats."""
    found = np.zeros(len(examples))
    order = sorted(range(len(examples)), key=lambda i: examples[i].inputs)
    device = model.device
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        batch = batch_of([[examples[i]] for i in numbers], model.context, np.array(numbers, np.int64)).to(device)
        logits = model.head(model.body(batch.ids))
        losses = token_losses(logits.flatten(0, 1), batch.targets.flatten()).view(batch.ids.shape) * batch.weights
        found[numbers] = (losses.sum(1) / batch.weights.sum(1)).double().cpu().numpy()
    return found
