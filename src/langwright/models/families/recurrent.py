"""Recurrent language models: LSTM, GRU and Elman's network (RNN)."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from langwright.models.config import Config, Positive, Rate, ShapeFields, Size
from langwright.models.family import AdapterTargets, Family, Fields
from langwright.models.keymap import Entry, layers, names
from langwright.models.model import Model, language_model
from langwright.models.task_heads import pooled_heads
from langwright.parts import Embedding, MixerBlock, Recurrent, Stack
from langwright.parts.recurrent import Cell

LAYER = ("input", "hidden_weight", "hidden_bias")
"""The parameters of a layer, by the same names on disk."""


@dataclass(frozen=True)
class RecurrentConfig(Config):
    """The fields of config.json.

    embedding_size: width of the token vectors, `hidden_size` unless given; with a tied head also of the last layer.
    embedding_dropout: of the token vectors. hidden_dropout: of what each layer gives. weight_dropout: of the weights
    between the hidden states of a layer. initializer_range: new parameters are uniform between it and its negative.
    """

    vocab_size: Size = 10000
    hidden_size: Size = 256
    embedding_size: Size | None = None
    num_hidden_layers: Size = 2
    embedding_dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    weight_dropout: Rate = 0.0
    tie_word_embeddings: bool = True
    initializer_range: Positive = 0.1

    shape = ShapeFields(heads=None, context=None)

    @property
    def output_width(self) -> int:
        """The width of the hidden states that the head reads."""
        return (self.embedding_size if self.tie_word_embeddings else None) or self.hidden_size


def build(config: RecurrentConfig, cell: Cell) -> Model:
    """Layers one on the other, without norms and without residual branches, and a head with a bias."""
    c = config
    embedded = c.embedding_size or c.hidden_size
    widths = [embedded, *[c.hidden_size] * (c.num_hidden_layers - 1), c.output_width]
    blocks = [
        MixerBlock(Recurrent(inputs, outputs, cell, c.hidden_dropout, c.weight_dropout))
        for inputs, outputs in pairwise(widths)
    ]
    body = Stack(Embedding(c.vocab_size, embedded, dropout=c.embedding_dropout), blocks, final_norm=None)
    return language_model(body, c, c.tie_word_embeddings, bias=True, dim=c.output_width)


@torch.no_grad()
def initialise(model: Model) -> None:
    """Uniform, as Zaremba et al. (2014)."""
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -model.config.initializer_range, model.config.initializer_range)


def keys(config: RecurrentConfig) -> list[Entry]:
    """Our own names."""
    layer = names({name: f"mixer.{name}" for name in LAYER})
    table = {"embedding.weight": "body.embed.tokens", "lm_head.weight": "head.weight", "lm_head.bias": "head.bias"}
    return [*names(table), *layers("layers", layer)]


def zaremba(width: int, scale: float) -> Fields:
    """A shape of Zaremba et al. (2014)."""
    return {
        "hidden_size": width, "num_hidden_layers": 2, "tie_word_embeddings": False, "initializer_range": scale
    }  # fmt: skip


def family(cell: Cell, presets: dict[str, Fields]) -> Family:
    """The row of a cell."""
    return Family(
        name=cell,
        architecture=f"{cell.upper()}ForCausalLM",
        config=RecurrentConfig,
        builder=partial(build, cell=cell),
        keys=keys,
        initialise=initialise,
        heads=pooled_heads(cell.upper(), "last"),
        own=True,
        carries=True,
        adapters=AdapterTargets(lora=("input",)),
        presets=presets,
    )


LSTM = family("lstm", {
    "lstm-small": zaremba(200, 0.1),
    "lstm-medium": zaremba(650, 0.05),
    "lstm-large": zaremba(1500, 0.04),
    "awd-lstm": {"hidden_size": 1150, "embedding_size": 400, "num_hidden_layers": 3, "weight_dropout": 0.5},
})  # fmt: skip
"""The presets are Zaremba et al. (2014), and Merity et al. (2018) without the rest of their dropout."""
GRU = family("gru", {})
RNN = family("rnn", {})
