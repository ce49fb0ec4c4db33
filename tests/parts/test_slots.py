"""The seam of what a stack keeps between calls: ragged rows, slots of other kinds, compiled and recomputed."""

from functools import partial
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.parts.attention import Context
from langwright.parts.bias import Lowered, Places
from langwright.parts.cache import KVCache
from langwright.parts.carry import Carry
from langwright.parts.kernels import Stateless, attend
from langwright.parts.norms import Norm
from langwright.parts.stack import Residual, Stack
from langwright.parts.state import NewTokens, Settings
from langwright.parts.virtual_tokens import VirtualTokens
from oracles import perturb
from tiny import tiny_model
from writers import written

LLAMA = LlamaConfig(
    vocab_size=29, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=24,
)  # fmt: skip


def made(family: str) -> Model:
    windowed = LlamaConfig(**{**vars(LLAMA), "sliding_window": 3})
    model = tiny_model() if family == "gpt2" else new_model(family, windowed if family == "mistral" else LLAMA)
    perturb(model.eval())
    return model


def ids_of(rows: int, time: int) -> Tensor:
    return torch.randint(29, (rows, time), generator=torch.Generator().manual_seed(rows * 100 + time))


class Pages:
    """A paged cache in 50 lines: blocks of four slots from one pool, a table of blocks for each sequence.

    Every call is one row of tokens of several sequences, named by their segments. Its slots have a kernel of their
    own, which gathers the blocks of one sequence at a time, so that no key is ever copied to another place.
    """

    size = 4

    def __init__(self, layers: int, blocks: int = 16):
        self.free, self.tables = list(range(blocks)), dict[int, list[int]]()
        self.lengths, self.length = dict[int, int](), 0
        self.slots = [PagedSlot(self, blocks) for _ in range(layers)]

    def begin(self, new: NewTokens) -> Places:
        assert new.segments is not None
        self.segments, positions = new.segments[0].tolist(), []
        for sequence in self.segments:
            position = self.lengths.get(sequence, 0)
            if position % self.size == 0:
                self.tables.setdefault(sequence, []).append(self.free.pop())
            positions.append(position)
            self.lengths[sequence] = position + 1
        self.length += new.time
        self.query = torch.tensor([positions])
        return Places(self.query, self.query[:, :0], False, new.segments, new.segments[:, :0])

    def slot(self, layer: int) -> "PagedSlot":
        return self.slots[layer]

    def at(self, sequence: int, positions: Tensor) -> Tensor:
        """Where in the pool the tokens at these positions are."""
        return torch.tensor(self.tables[sequence])[positions // self.size] * self.size + positions % self.size


class PagedSlot:
    def __init__(self, pages: Pages, blocks: int):
        self.pages, self.room = pages, blocks * pages.size
        self.pool: tuple[Tensor, Tensor] | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Lowered, settings: Settings) -> Tensor:
        pages, mixed = self.pages, torch.empty_like(q)
        self.pool = self.pool or (k.new_empty(*k.shape[1::2], self.room).mT, v.new_empty(*v.shape[1::2], self.room).mT)
        assert bias.described is not None
        for sequence in set(pages.segments):
            here = torch.tensor([number == sequence for number in pages.segments])
            query, key = pages.query[:, here], torch.arange(pages.lengths[sequence])[None]
            for pool, new in zip(self.pool, (k, v), strict=True):
                pool[:, pages.at(sequence, query[0])] = new[0, :, here]
            held = [pool[None, :, pages.at(sequence, key[0])] for pool in self.pool]
            lowered = bias.described[0].lower(Places(query, key, False), q.dtype)
            mixed[:, :, here] = attend(q[:, :, here], held[0], held[1], lowered, settings)
        return mixed


@pytest.mark.parametrize("kind", [KVCache, Pages])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
@torch.no_grad()
def test_a_row_of_several_texts_equals_the_separate_rows(family: str, kind: Any) -> None:
    """One row of tokens of three texts: prompts in pieces beside single tokens, one text beginning late."""
    model, texts = made(family), ids_of(3, 12)
    expected, state = model(texts), kind(2)
    done = [0, 0, 0]
    for pieces in ((5, 3, 0), (1, 4, 0), (1, 1, 7), (3, 1, 1), (0, 1, 2), (2, 2, 2)):
        row = [texts[i, done[i] : done[i] + n] for i, n in enumerate(pieces)]
        segments = torch.arange(3).repeat_interleave(torch.tensor(pieces))[None]
        order = torch.randperm(segments.shape[1], generator=torch.Generator().manual_seed(sum(done)))
        order = order[segments[0, order].argsort(stable=True)].sort().values if kind is Pages else order.sort().values
        hidden = model.body(torch.cat(row)[None][:, order], segments=segments[:, order], state=state)
        wanted = torch.cat([expected[i, done[i] : done[i] + n] for i, n in enumerate(pieces)])
        torch.testing.assert_close(model.head(hidden)[0], wanted, rtol=0, atol=1e-4)
        done = [a + b for a, b in zip(done, pieces, strict=True)]
    assert done == [12, 12, 12]


@torch.no_grad()
def test_positions_may_be_given_with_a_state() -> None:
    """As for texts interleaved token by token, or a text whose middle was left out."""
    model, ids, state = made("llama"), ids_of(1, 6), KVCache(2)
    positions = torch.tensor([[0, 1, 2, 7, 8, 9]])
    whole = model(ids, positions=positions)
    steps = [model(ids[:, p], positions=positions[:, p], state=state) for p in (slice(0, 4), slice(4, 5))]
    steps.append(model(ids[:, 5:], state=state))  # goes on where the last one stood
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_without_segments_a_call_goes_on_with_segment_0() -> None:
    model, ids = made("llama"), ids_of(2, 6)
    row, segments = torch.cat((ids[0, :3], ids[1]))[None], torch.tensor([[0] * 3 + [1] * 6])
    state = KVCache(len(model.body.blocks))
    model.body(row, segments=segments, state=state)
    last = model.body(ids[:1, 3:], state=state)
    torch.testing.assert_close(last, model.body(ids[:1])[:, 3:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_every_text_of_a_row_sees_a_prefix_and_goes_on_seeing_it() -> None:
    model, ids = made("llama"), ids_of(2, 6)
    layers = [(torch.randn(2, 3, 4), torch.randn(2, 3, 4)) for _ in range(2)]
    model.body.adapter = _Constant(VirtualTokens(3, layers=layers))
    expected, state = model(ids), KVCache(2)
    segments = torch.tensor([[0, 0, 0, 0, 1, 1]])
    first = model.body(torch.cat((ids[0, :4], ids[1, :2]))[None], segments=segments, state=state)
    segments = torch.tensor([[0, 1, 1, 1, 1, 0]])
    row = torch.cat((ids[0, 4:5], ids[1, 2:], ids[0, 5:]))[None]
    second = model.head(model.body(row, segments=segments, state=state))[0]
    torch.testing.assert_close(model.head(first)[0, 4:], expected[1, :2], rtol=0, atol=1e-5)
    torch.testing.assert_close(second[1:5], expected[1, 2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(second[[0, 5]], expected[0, 4:], rtol=0, atol=1e-5)


class _Constant(nn.Module):
    def __init__(self, virtual: VirtualTokens):
        super().__init__()
        self.virtual = virtual

    def virtual_tokens(self) -> VirtualTokens:
        return self.virtual


class Decay(nn.Module):
    """A recurrent mixer: h = a h + x, with a learned rate a number; its slot is the last h."""

    def __init__(self, dim: int):
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        slot = context.slot if isinstance(context.slot, Carry) else Carry()
        h, out = slot.read(), []
        h = torch.zeros_like(x[:, 0]) if h is None else h
        for step in x.unbind(1):
            h = self.rate.sigmoid() * h + step
            out.append(h)
        slot.write(h)
        return torch.stack(out, 1)

    def new_slot(self) -> Carry:
        return Carry()


def test_a_recurrent_mixer_brings_its_own_slot() -> None:
    """One layer of a model is recurrent, the other attends: token by token it is what it is at once."""
    model, ids = made("llama"), ids_of(3, 9)
    block = model.body.blocks[0]
    block.attention = Residual(Decay(16), Norm(16, "rms", 1e-6, weight=False))
    prompts = [row.tolist() for row in ids[:, :4]]
    with torch.no_grad():
        state = KVCache(2, model.body.own_slots())
        steps = [model(piece, state=state) for piece in ids.split([4, 1, 4], 1)]
        torch.testing.assert_close(torch.cat(steps, 1), model(ids), rtol=0, atol=1e-5)
    cached, whole = (written(model, prompts, [6, 1, 6], cache=cache) for cache in (True, False))
    assert cached == whole
    model(ids).sum().backward()
    assert block.attention.fn.rate.grad.any()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", [partial(KVCache, 2), Stateless], ids=["cache", "stateless"])
def test_recomputed_and_compiled_it_is_the_same(kind: Any, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix before the text, gradients through keys that a cache holds: nothing is kept twice."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' checks cannot be traced
    gradients = []
    for changed in (False, True):
        torch.manual_seed(0)
        model = made("llama").train()
        numbers = nn.Parameter(torch.randn(2, 2, 2, 3, 4))
        model.body.adapter = _Constant(VirtualTokens(3, layers=[(pair[0], pair[1]) for pair in numbers]))
        model.body.recompute = changed and not compiled
        if changed and compiled:
            for block in model.body.blocks:
                block.compile(backend="aot_eager", dynamic=False)
        model(ids_of(2, 7), state=kind()).square().sum().backward()
        gradients.append([p.grad for p in (numbers, *model.parameters()) if p.grad is not None])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


class Patches(nn.Module):
    """An embedder of images: squares of side 2, each a vector, each with a learned position."""

    max_positions = 9

    def __init__(self, dim: int):
        super().__init__()
        self.project = nn.Conv2d(1, dim, 2, 2)
        self.positions = nn.Parameter(torch.randn(self.max_positions, dim))

    def size(self, inputs: Tensor) -> tuple[int, int]:
        return len(inputs), inputs.shape[2] * inputs.shape[3] // 4

    def forward(self, inputs: Tensor, positions: Tensor, types: None = None, virtual: Tensor | None = None) -> Tensor:
        x = self.project(inputs).flatten(2).mT
        x = x if virtual is None else torch.cat((virtual.expand(len(x), -1, -1), x), 1)
        return x + self.positions[positions]


@torch.no_grad()
def test_a_stack_takes_any_embedder() -> None:
    """Images [batch, 1, 6, 6] as nine patches: the stack sees vectors, as it would see those of tokens."""
    body = made("llama").body
    seen = Stack(Patches(16), list(body.blocks), body.final_norm, body.rope)
    images = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    hidden = seen(images)
    assert hidden.shape == (2, 9, 16)
    torch.testing.assert_close(seen(images[1:])[0], hidden[1], rtol=0, atol=1e-5)
    mask = torch.arange(9)[None].expand(2, -1) < 6
    torch.testing.assert_close(seen(images, mask)[:, :6], hidden[:, :6], rtol=0, atol=1e-5)
    state = KVCache(2)
    halves = torch.cat([seen(images[:, :, :2], state=state), seen(images[:, :, 2:], state=state)], 1)
    torch.testing.assert_close(halves, hidden, rtol=0, atol=1e-5)
    seen.adapter = _Constant(VirtualTokens(1, torch.randn(1, 16)))
    assert seen(images[:, :, :4]).shape == (2, 6, 16)
    with pytest.raises(ValueError, match="10 tokens do not fit"):
        seen(images)
