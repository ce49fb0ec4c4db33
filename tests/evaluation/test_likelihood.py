"""Loss, perplexity and bits per byte against a direct computation by `transformers`."""

import math
from pathlib import Path

import pytest
import torch

from langwright import load_model
from langwright.evaluation.likelihood import Likelihood, likelihood
from langwright.objectives.batch import TokenBatch
from oracles import CASES, oracle, random_ids

LENGTHS = [[12, 9], [5, 1]]
"""Targets of each row of two batches."""


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_equals_transformers(name: str, masked: bool, tmp_path: Path) -> None:
    theirs = oracle(CASES[name])
    theirs.save_pretrained(tmp_path)
    batches, nats = [], 0.0
    for number, lengths in enumerate(LENGTHS):
        text = random_ids(2, 13, seed=number)
        real = torch.arange(12) < torch.tensor(lengths)[:, None]
        batches.append(TokenBatch(text[:, :-1], text[:, 1:], real.float(), real if masked else None))
        for row, length in enumerate(lengths):
            log_p = theirs(text[row : row + 1, :length]).logits[0].double().log_softmax(-1)
            nats -= float(log_p.gather(1, text[row, 1 : length + 1, None]).sum())
    found = likelihood(load_model(tmp_path), batches, text_bytes=100)
    assert found.tokens == sum(map(sum, LENGTHS))
    assert found.nats == pytest.approx(nats, abs=1e-3)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / 100, abs=1e-5)


def test_units() -> None:
    """Two bits a token, four tokens, two bytes: 4 bits a byte."""
    found = Likelihood(nats=8 * math.log(2), tokens=4, bytes=2)
    assert found.loss == pytest.approx(2 * math.log(2))
    assert found.perplexity == pytest.approx(4)
    assert found.bits_per_byte == pytest.approx(4)
    assert found.record() == {
        "loss_nats_per_token": found.loss,
        "perplexity_per_token": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "tokens": 4,
        "bytes": 2,
    }


def test_a_hopeless_model_has_a_finite_record() -> None:
    assert math.isfinite(Likelihood(nats=1e6, tokens=1, bytes=1).record()["perplexity_per_token"])
