"""Pieces of documents as examples: nothing is lost, nothing is too long, and packing changes no loss."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langwright.data.examples import ExampleRows
from langwright.data.noise import Cut, Denoising, Masking, SpanCorruption
from langwright.data.order import Layout
from langwright.data.pieces import Continued, Corruption, Framing, Masked, Paired, pieces
from langwright.data.shards import Tokens
from langwright.data.supply import Batches, evaluation_batches
from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.objectives.batch import PairBatch, TokenBatch
from langwright.objectives.language import TokenPrediction

FRAME = Framing((1,), (2,), start=3)
CORRUPTIONS: dict[str, Corruption] = {
    "causal": Continued(),
    "masked": Masked(Masking(4, 40), FRAME),
    "prefix": Paired(Cut(), FRAME),
    "span": Paired(SpanCorruption(range(49, 39, -1)), FRAME),
    "denoise": Paired(Denoising(4, stops=np.arange(50) % 9 == 0), FRAME),
}
FAMILIES = [
    ("causal", "llama"), ("causal", "bloom"), ("masked", "bert"), ("masked", "roberta"), ("prefix", "t5"),
    ("span", "t5"), ("span", "switch_transformers"), ("denoise", "bart"), ("denoise", "marian"),
]  # fmt: skip


def tokens(lengths: list[int]) -> Tokens:
    """Documents of so many tokens, with bos and eos."""
    rng = np.random.default_rng(0)
    documents = [np.concatenate(([1], rng.integers(5, 40, length), [2])) for length in lengths]
    ids = np.concatenate(documents).astype(np.uint16)
    return Tokens(ids, np.cumsum([0, *map(len, documents)]), np.array(lengths), "", "")


def rows_of(name: str, documents: Tokens, context: int, packing: bool = False) -> ExampleRows:
    around, overlap = ((0, 0), 1) if name == "causal" else ((1, 1), 0)
    return pieces(documents, CORRUPTIONS[name], context, 7, around, overlap, packing)


def each(rows: ExampleRows) -> Iterator[Any]:
    numbers = np.arange(len(rows))
    return (rows.batch(numbers[i : i + 1], numbers[i : i + 1]) for i in range(len(rows)))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(8, 40), st.sampled_from(list(CORRUPTIONS)))
def test_pieces_fit_and_lose_nothing(lengths: list[int], context: int, name: str) -> None:
    documents = tokens(lengths)
    rows = rows_of(name, documents, context)
    seen = []
    for i in range(len(rows)):
        batch = rows.batch(np.array([i]), np.array([i]))
        assert batch.ids.shape[1] <= context
        longest = max(int((side != 0).sum()) for side in (batch.ids, getattr(batch, "source", batch.ids)))
        assert longest <= int(rows.lengths(np.array([i]))[0]) <= context
        seen.append(batch)
    whole = [documents.ids[a:b] for a, b in zip(documents.offsets, documents.offsets[1:], strict=False)]
    if name == "causal":
        found = [t for b in seen for t in b.targets[b.weights > 0].tolist()]
        assert found == [int(t) for d in whole for t in d[1:]]
    elif name == "denoise":  # the targets are the text
        found = [t for b in seen for t in b.targets[b.weights > 0].tolist() if t not in (1, 2)]
        assert found == [int(t) for d in whole if len(d) > 3 for t in d[1:-1]]


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_packing_and_padding_change_no_loss(name: str, family: str) -> None:
    """The packed loss equals the unpacked one, and its gradients too."""
    context = 32
    head = "masked" if name == "masked" else None
    model = new_model(family, by_depth(family, 2, 50, context, 0.0, width=64), 3, head).train()
    for module in model.modules():
        if hasattr(module, "jitter"):
            module.jitter = 0.0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    documents, loss = tokens([9, 21, 5, 40, 14, 7]), TokenPrediction(smoothing=0.1)
    plain, packed = rows_of(name, documents, context), rows_of(name, documents, context, packing=True)
    assert len(packed) < len(plain)
    ways = {
        "alone": list(each(plain)),
        "among others": list(evaluation_batches(plain, 3)),
        "packed": list(each(packed)),
        "packed among others": list(evaluation_batches(packed, 8)),
    }
    found = {}
    for way, batches in ways.items():
        model.zero_grad()
        total = torch.stack([sum(loss({"model": model}, batch).values()) for batch in batches]).sum()
        total.backward()
        counts = sum(float(loss.counts(batch)["tokens"]) for batch in batches)
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[way] = total.item(), counts, grads
    for way, (value, count, gradient) in found.items():
        assert count == found["alone"][1], way
        assert value == pytest.approx(found["alone"][0], rel=1e-5), way
        torch.testing.assert_close(gradient, found["alone"][2], atol=2e-4, rtol=1e-3, msg=way)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_batch_is_a_function_of_its_step_and_ranks_share_it(name: str) -> None:
    documents = tokens([9, 21, 5, 40, 14, 7, 12])

    def batch(step: int, rank: int = 0, world: int = 1) -> TokenBatch | PairBatch:
        layout = Layout(4, 5, fixed=True, rank=rank, world=world)
        return Batches(rows_of(name, documents, 16), layout).batch(step)

    later = batch(6)
    shares = [batch(6, rank, 2) for rank in (0, 1)]
    for field, value in vars(later).items():
        if isinstance(value, torch.Tensor) and field not in ("mask", "source_mask", "targets", "weights", "at"):
            assert torch.equal(value, torch.cat([getattr(share, field) for share in shares])), field
    assert float(sum(share.weights.sum() for share in shares)) == float(later.weights.sum())
    assert torch.equal(later.ids, batch(6).ids)


def test_noise_is_new_in_every_epoch() -> None:
    rows = rows_of("masked", tokens([30]), 64)
    first, again, second = (rows.batch(np.array([0]), np.array([sample])).ids for sample in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
