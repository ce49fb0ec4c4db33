"""What a model makes of conversations: their length in tokens, and scores to choose by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from langwright.base.console import progress
from langwright.corpora.conversations import Chat
from langwright.data.chat import Example, example_of
from langwright.evaluation.relevance import answer_difficulty
from langwright.models.folder import load_language_model
from langwright.planning.machine import choose_device
from langwright.text.equip import equip
from langwright.text.tokenizer import load_tokenizer

CHUNK = 256


class Scorer:
    """A model and its chat template. template: as for finetune; one that needs new tokens is refused."""

    def __init__(self, folder: Path, template: str | None):
        self._folder = folder
        self._equipped = equip(load_tokenizer(folder), template, may_grow=False, where=str(folder))

    def tokens(self, chats: Sequence[Chat]) -> list[int]:
        """The length of each conversation with its template, in tokens."""
        return [len(example.ids) for example in self._examples(chats)]

    def scores(self, chats: Sequence[Chat], by: Literal["relevance", "difficulty"]) -> list[float]:
        """Higher is better. Conversations that do not fit the context, or with a ratio of 1 or more, come last."""
        model = load_language_model(self._folder, choose_device("auto"), torch.float32)
        examples = self._examples(chats)
        fitting = [i for i, example in enumerate(examples) if example.inputs <= model.context]
        scores = [float("-inf")] * len(chats)
        with progress("scoring", len(fitting), "conversations") as advance:
            for start in range(0, len(fitting), CHUNK):
                part = fitting[start : start + CHUNK]
                first = next(iter(self._equipped.tokenizer.opening), None)
                found = answer_difficulty(model, [examples[i] for i in part], first)
                for i, ratio in zip(part, found.tolist(), strict=True):
                    scores[i] = -ratio if by == "relevance" else ratio if ratio < 1 else -ratio
                advance(len(part))
        return scores

    def _examples(self, chats: Sequence[Chat]) -> list[Example]:
        return [example_of(chat, self._equipped.template, self._equipped.tokenizer) for chat in chats]
