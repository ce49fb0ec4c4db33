"""How well a model predicts a text: loss, perplexity and bits per byte."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import torch

from langwright.base.console import print_json
from langwright.models.model import Model
from langwright.objectives.batch import PairBatch, TokenBatch
from langwright.objectives.losses import linear_cross_entropy


@dataclass(frozen=True)
class Likelihood:
    """What a model makes of held-out text.

    nats: the sum of -log p over all targets. tokens: how many targets there are: every token of every document,
    its end included. bytes: of the text in UTF-8; None where not all of it is predicted.
    """

    nats: float
    tokens: int
    bytes: int | None

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood in nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss), per token: comparable only between models with the same tokenizer."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """All bits over all bytes of text: comparable between any two models, and with compressors."""
        assert self.bytes is not None
        return self.nats / math.log(2) / self.bytes

    def record(self) -> dict[str, float | int]:
        """All numbers, units in their names."""
        return {
            "loss_nats_per_token": self.loss,
            "perplexity_per_token": self.perplexity,
            **({} if self.bytes is None else {"bits_per_byte": self.bits_per_byte}),
            **{name: value for name, value in asdict(self).items() if name != "nats" and value is not None},
        }


@torch.no_grad()
def likelihood(model: Model, batches: Iterable[TokenBatch | PairBatch], text_bytes: int | None) -> Likelihood:
    """Score a model on batches that hold every target once (`data.supply.evaluation_batches`)."""
    device = model.device
    nats, tokens = 0.0, 0
    for batch in batches:
        here = batch.to(device)
        loss = linear_cross_entropy(model.head.projection(here.hidden(model)[0]), here.targets, here.weights)
        nats += float(loss)
        tokens += int(batch.weights.sum())
    return Likelihood(nats, tokens, text_bytes)


def print_likelihood(record: Mapping[str, float], what: str, as_json: bool) -> None:
    """Print the record of a `Likelihood` with its units, or as one JSON object."""
    if as_json:
        print_json(record)
        return
    bits = f", {record['bits_per_byte']:.4f} bits per byte" if "bytes" in record else ""
    size = f", {record['bytes']:,} bytes" if "bytes" in record else ""
    print(
        f"{what}: loss {record['loss_nats_per_token']:.4f} nats per token, "
        f"perplexity {record['perplexity_per_token']:.2f} per token{bits} ({record['tokens']:,} tokens{size})",
        flush=True,  # before what is said after it
    )
