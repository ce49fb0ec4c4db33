"""How much a question helps a model to the answer: scores by which conversations are chosen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.base.console import progress
from langwright.corpora.conversations import Chat
from langwright.data.conversations import ChatExample, chat_rows, example_of
from langwright.data.supply import evaluation_batches
from langwright.models.folder import OpenedFolder
from langwright.models.model import Model
from langwright.objectives.losses import token_losses
from langwright.planning.machine import choose_device
from langwright.text.chat_template import set_up_chat
from langwright.text.opening import load_tokenizer

CHUNK = 256
"""Conversations scored between two steps of the progress bar."""


def answer_difficulty(
    model: Model, examples: Sequence[ChatExample], bos: int | None, batch_size: int = 16
) -> NDArray[np.float64]:
    """For each example, the loss of its answer after the question over that of the answer alone.

    The instruction-following difficulty of Li et al. ("From quantity to quality", 2023): far below 1 the question
    tells almost all, near 1 it does not help, and above 1 question and answer hardly belong together. An answer's own
    first token is not counted where there is no bos to predict it from. Both are means over tokens in nats.
    """
    alone = [_alone(example, bos) for example in examples]
    return _losses(model, examples, batch_size) / _losses(model, alone, batch_size).clip(1e-6)


def _alone(example: ChatExample, bos: int | None) -> ChatExample:
    """The trained tokens without the others."""
    ids = example.ids[example.trained]
    first = [bos] if bos is not None else ids[:1] if len(ids) == 1 else []  # a single token is predicted from itself
    ids = np.concatenate((first, ids)).astype(np.int32)
    return ChatExample(ids, np.arange(len(ids)) >= len(first), example.source)


@torch.no_grad()
def _losses(model: Model, examples: Sequence[ChatExample], batch_size: int) -> NDArray[np.float64]:
    """The mean loss of the trained tokens of each example, in nats."""
    found = np.zeros(len(examples))
    for batch in evaluation_batches(chat_rows(examples, max(example.inputs for example in examples)), batch_size):
        assert batch.samples is not None
        here = batch.to(model.device)
        logits = model.head(model.body(here.ids))
        losses = token_losses(logits.flatten(0, 1), here.targets.flatten()).view(here.ids.shape) * here.weights
        found[batch.samples.numpy()] = (losses.sum(1) / here.weights.sum(1)).double().cpu().numpy()
    return found


class Scorer:
    """A model and its chat template. template: as for finetune; one that needs new tokens is refused."""

    def __init__(self, folder: Path, template: str | None):
        self._folder = folder
        self._template = set_up_chat(load_tokenizer(folder), template, may_grow=False, where=str(folder))

    def tokens(self, chats: Sequence[Chat]) -> list[int]:
        """The length of each conversation with its template, in tokens."""
        return [len(example.ids) for example in self._examples(chats)]

    def scores(self, chats: Sequence[Chat], by: Literal["relevance", "difficulty"]) -> list[float]:
        """Higher is better. Conversations that do not fit the context, or with a ratio of 1 or more, come last."""
        opened = OpenedFolder(self._folder).require(generates=True, one_stack=True)
        model = opened.model(choose_device("auto"), torch.float32)
        examples = self._examples(chats)
        fitting = [i for i, example in enumerate(examples) if model.fits(example.inputs)]
        scores = [float("-inf")] * len(chats)
        with progress("scoring", len(fitting), "conversations") as advance:
            for start in range(0, len(fitting), CHUNK):
                part = fitting[start : start + CHUNK]
                first = next(iter(self._template.tokenizer.opening), None)
                found = answer_difficulty(model, [examples[i] for i in part], first)
                for i, ratio in zip(part, found.tolist(), strict=True):
                    scores[i] = -ratio if by == "relevance" else ratio if ratio < 1 else -ratio
                advance(len(part))
        return scores

    def _examples(self, chats: Sequence[Chat]) -> list[ChatExample]:
        return [example_of(chat, self._template) for chat in chats]
