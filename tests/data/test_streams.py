"""Text in order with a carried memory: every target once, and the loss of whole documents."""

from typing import Any

import numpy as np
import pytest
import torch

from langwright.data.order import Layout
from langwright.data.shards import Tokens
from langwright.data.streams import Streams, whole_documents
from langwright.evaluation.likelihood import likelihood
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.objectives.language import TokenPrediction
from oracles import perturb
from refusals import refused

LENGTHS = (7, 19, 2, 1, 12, 23)


def tokens_of(lengths: Any = LENGTHS) -> Tokens:
    offsets = np.cumsum([0, *lengths])
    ids = np.random.default_rng(1).integers(0, 29, offsets[-1]).astype(np.uint16)
    return Tokens(ids, offsets, np.array(lengths), "none", "digest")


def made(family: str = "lstm") -> Model:
    model = new_model(family, by_depth(family, 2, 29, 64, 0.0, width=64)).eval()
    perturb(model)
    return model


def loss(model: Model, ids: Any) -> float:
    """The summed loss of one text on its own."""
    row = torch.from_numpy(ids.astype(np.int64))[None]
    logits = model(row[:, :-1])[0]
    return float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))


@pytest.mark.parametrize("family", ["lstm", "cnn"])
@pytest.mark.parametrize("context", [3, 8, 100])
@torch.no_grad()
def test_held_out_documents_are_read_whole(family: str, context: int) -> None:
    tokens, model = tokens_of(), made(family)
    expected = sum(loss(model, ids) for ids in np.split(tokens.ids, tokens.offsets[1:-1]) if len(ids) > 1)
    found = likelihood(model, whole_documents(tokens, 2, context), 1)
    assert found.tokens == sum(LENGTHS) - len(LENGTHS)
    assert found.nats == pytest.approx(expected, rel=1e-5)
    some = list(whole_documents(tokens, 2, 4, limit=3))
    assert 1 <= sum(len(batch) for batch in some) <= 4
    with refused("too little"):
        next(whole_documents(tokens_of((1, 1)), 2, context))


@pytest.mark.parametrize("crossing", [False, True])
@torch.no_grad()
def test_rows_go_on_from_step_to_step(crossing: bool) -> None:
    """An epoch in pieces of five is each row at once, its documents apart; the next epoch is the same again."""
    tokens, model = tokens_of(), made()
    streams = Streams(tokens, Layout(2, seed=0), context=5, crossing=crossing)
    assert (streams.windows, streams.tokens_per_step) == (12, 10)  # rows of 31 tokens, 6 steps
    objective, found, weights = TokenPrediction(), [], 0.0
    for _ in range(12):
        batch = streams.next({})
        found.append(sum(float(term) for term in objective({"model": model}, batch).values()))
        weights += float(batch.weights.sum())
    rows = [tokens.ids[start : start + 31] for start in (0, 31)]
    bounds = [[] if crossing else [n - 31 * i for n in tokens.offsets if 0 < n - 31 * i < 31] for i in (0, 1)]
    texts = [part for row, cuts in zip(rows, bounds, strict=True) for part in np.split(row, cuts) if len(part) > 1]
    assert weights == 2 * sum(len(text) - 1 for text in texts)
    assert sum(found[:6]) == pytest.approx(sum(loss(model, text) for text in texts), rel=1e-5)
    assert found[6:] == found[:6]


def test_ranks_share_the_rows_and_a_state_goes_on() -> None:
    tokens, model = tokens_of(), made()
    whole = Streams(tokens, Layout(4, seed=0), context=3)
    shares = [Streams(tokens, Layout(4, seed=0, rank=rank, world=2), context=3) for rank in (0, 1)]
    for _ in range(3):
        batch, parts = whole.next({}), [share.next({}) for share in shares]
        assert torch.equal(batch.ids, torch.cat([part.ids for part in parts]))
        for one in (batch, *parts):
            TokenPrediction()({"model": model}, one)
    memory = [share.state()["memory.1"] for share in shares]
    torch.testing.assert_close(whole.state()["memory.1"], torch.cat(memory))
    again = Streams(tokens, Layout(4, seed=0), context=3)
    again.load(whole.state())
    first, second = (TokenPrediction()({"model": model}, streams.next({}))["tokens"] for streams in (whole, again))
    assert torch.equal(first, second)
    with refused("--batch-size", "--context"):
        Streams(tokens, Layout(8, seed=0), context=9)
