"""Layers whose memory has a fixed size, against `torch.nn`, and what they keep between calls."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langwright.models.families import CARRYING
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.parts.attention import Context
from langwright.parts.bias import EVERY_SEGMENT, Lowered
from langwright.parts.cache import KVCache
from langwright.parts.carry import CarriedState, Carry
from langwright.parts.convolution import CausalConvolution
from langwright.parts.recurrent import Recurrent
from oracles import perturb

PLAIN = Context(Lowered())
ORACLES: Any = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(cell: Any, weight_dropout: float = 0.0) -> tuple[Recurrent, Any]:
    """Ours and theirs with the same weights."""
    ours, theirs = Recurrent(5, 7, cell, weight_dropout=weight_dropout), ORACLES[cell](5, 7, batch_first=True)
    perturb(theirs)
    parts = (ours.input.weight, ours.hidden_weight, ours.input.bias, ours.hidden_bias)
    with torch.no_grad():
        for own, name in zip(parts, ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), strict=True):
            assert own is not None
            own.copy_(getattr(theirs, name))
    return ours, theirs


@pytest.mark.parametrize("cell", ORACLES)
def test_it_is_the_layer_of_torch(cell: Any) -> None:
    """Outputs, memory and gradients, bit for bit."""
    ours, theirs = pair(cell)
    slot, x = Carry(), randn(3, 6, 5)
    given, (expected, memory) = ours(x, PLAIN._replace(slot=slot)), theirs(x)
    assert torch.equal(given, expected)
    assert torch.equal(slot.read(), torch.stack(memory, 2)[0] if cell == "lstm" else memory.transpose(0, 1))
    for y in (given, expected):
        y.square().sum().backward()
    assert torch.equal(ours.hidden_weight.grad, theirs.weight_hh_l0.grad)
    assert torch.equal(ours.input.weight.grad, theirs.weight_ih_l0.grad)


@pytest.mark.parametrize("cell", ORACLES)
def test_weight_drop_is_dropout_of_the_hidden_weight_once_a_pass(cell: Any) -> None:
    ours, theirs = pair(cell, weight_dropout=0.4)
    x, mask = randn(2, 6, 5), torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    torch.manual_seed(3)
    given = ours(x, PLAIN._replace(real=mask, slot=Carry()))  # in two pieces
    torch.manual_seed(3)
    with torch.no_grad():
        theirs.weight_hh_l0.copy_(nn.functional.dropout(theirs.weight_hh_l0, 0.4))
    assert (theirs.weight_hh_l0 == 0).any()
    torch.testing.assert_close(given[0], theirs(x)[0][0])
    torch.testing.assert_close(given[1, 2:], theirs(x[1:, 2:])[0][0])
    assert torch.equal(ours.eval()(x, PLAIN), ours(x, PLAIN))


@pytest.mark.parametrize("cell", ORACLES)
def test_an_adapted_input_is_computed_before(cell: Any) -> None:
    ours, _ = pair(cell)
    x = randn(3, 6, 5)
    expected = ours(x, PLAIN)

    class Twice(nn.Module):
        def forward(self, x: Tensor, owner: Any) -> Tensor:
            return owner.plain(x)

    ours.input.adapter = Twice()
    torch.testing.assert_close(ours(x, PLAIN), expected)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (2, 3)])
def test_a_convolution_is_that_of_torch(kernel: int, dilation: int) -> None:
    ours = CausalConvolution(4, kernel, dilation)
    theirs = nn.Conv1d(4, 8, kernel, dilation=dilation, padding=(kernel - 1) * dilation)
    perturb(theirs)
    with torch.no_grad():  # [outputs, inputs, kernel] to [outputs, kernel * inputs]
        ours.input.weight.copy_(theirs.weight.transpose(1, 2).flatten(1))
        ours.input.bias.copy_(theirs.bias)  # type: ignore[union-attr]
    x = randn(2, 9, 4)
    torch.testing.assert_close(ours(x, PLAIN), nn.functional.glu(theirs(x.mT)[:, :, :9].mT))


def made(family: str) -> Model:
    model = new_model(family, by_depth(family, 2, 29, 64, dropout=0.0, width=64), seed=1).eval()
    perturb(model)
    return model


def ids_of(rows: int, time: int) -> Tensor:
    return torch.randint(29, (rows, time), generator=torch.Generator().manual_seed(rows * 100 + time))


families = pytest.mark.parametrize("family", [row.name for row in CARRYING])


@families
@torch.no_grad()
def test_padding_leaves_the_memory_alone(family: str) -> None:
    """At the left, in the middle and at the right, in calls of several tokens and of one."""
    model, ids = made(family), ids_of(3, 8)
    holes = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1, 1]]).bool()
    shown = torch.zeros(3, 9, dtype=torch.long)
    for row, hole in enumerate(holes):
        shown[row, hole] = ids[row, : int(hole.sum())]
    state = KVCache(2, model.body.own_slots())
    calls = zip(shown.split([5, 1, 3], 1), holes.split([5, 1, 3], 1), strict=True)
    parts = [model(x, mask, state=state) for x, mask in calls]
    together = torch.cat(parts, 1)
    rest = model(ids_of(3, 2), state=state)
    for row, hole in enumerate(holes):
        count = int(hole.sum())
        whole = torch.cat((ids[row : row + 1, :count], ids_of(3, 2)[row : row + 1]), 1)
        expected = model(whole)[0]
        torch.testing.assert_close(together[row, hole], expected[:count], rtol=0, atol=1e-5)
        torch.testing.assert_close(rest[row], expected[count:], rtol=0, atol=1e-5)
        torch.testing.assert_close(model(shown, holes)[row, hole], expected[:count], rtol=0, atol=1e-5)


@families
@torch.no_grad()
def test_texts_of_a_row_are_apart_but_for_what_stands_before_all(family: str) -> None:
    """Segment 0 goes on with what is held, others begin afresh, and all of them follow shared virtual tokens."""
    model, ids = made(family), ids_of(2, 9)
    slots = model.body.own_slots()
    state = KVCache(2, slots)
    model.body(ids[:, :3], state=state)
    segments = torch.tensor([[0, 0, 1, 1, 1, 2], [1, 1, 1, 1, 3, 3]])
    packed = model.body(ids[:, 3:], segments=segments, state=state)
    alone = [(0, 0, 5), (0, 5, 8), (0, 8, 9), (1, 3, 7), (1, 7, 9)]
    for row, start, stop in alone:
        expected = model.body(ids[row : row + 1, start:stop])[0]
        begin = max(start, 3)
        torch.testing.assert_close(packed[row, begin - 3 : stop - 3], expected[begin - start :], rtol=0, atol=1e-5)
    mixer = next(module for module in model.body.blocks[0].modules() if hasattr(module, "new_slot"))
    x, segments = randn(1, 7, 64), torch.tensor([[EVERY_SEGMENT] * 2 + [1, 1, 5, 5, 5]])
    given = mixer(x, PLAIN._replace(segments=segments))
    for start, stop in ((2, 4), (4, 7)):
        expected = mixer(torch.cat((x[:, :2], x[:, start:stop]), 1), PLAIN)
        torch.testing.assert_close(given[:, start:stop], expected[:, 2:], rtol=0, atol=1e-5)


@families
def test_training_carries_the_memory_and_no_gradient(family: str) -> None:
    """In micro-batches and with recomputation; what a failed step left is forgotten."""
    model, ids = made(family), ids_of(4, 12)
    expected = model.body(ids)
    model.body.recompute = True
    first = CarriedState()
    for rows in (slice(0, 2), slice(2, 4)):
        model.train().body(ids[rows, :7], state=first[rows].to("cpu")).sum().backward()
    second = CarriedState(first.after())
    torch.testing.assert_close(model.body(ids[:, 7:], state=second), expected[:, 7:], rtol=0, atol=1e-5)
    assert torch.equal(model.body(ids[:, 7:], state=second), model.body(ids[:, 7:], state=second))
    assert not any(memory.requires_grad for memory in second.after().values())
    failed = CarriedState({layer: memory * torch.inf for layer, memory in first.after().items()})
    model.body(ids, state=failed)
    assert all(memory.isfinite().all() for memory in failed.after().values())


@families
@torch.no_grad()
def test_memory_does_not_grow(family: str) -> None:
    model, ids = made(family), ids_of(3, 8)
    slots = model.body.own_slots()
    state = KVCache(2, slots)
    sizes = set()
    for column in ids[:, :6].split(1, 1):
        model(column, state=state)
        sizes.add(tuple(slot.read().shape for slot in slots.values()))
    assert len(sizes) == 1
    torch.testing.assert_close(model(ids[:, 6:], state=state), model(ids)[:, 6:], rtol=0, atol=1e-5)
