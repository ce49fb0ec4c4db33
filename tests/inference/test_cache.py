"""The cache: what it holds, where it stands, and how it grows."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from langwright.inference.cache import KVCache
from langwright.parts.state import NewTokens, Slot, State


def new(ids: Tensor, mask: Tensor | None = None, segments: Tensor | None = None) -> NewTokens:
    return NewTokens(*ids.shape, ids.device, mask, segments=segments)


def placed(cache: KVCache, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The positions of the queries, and those of the keys."""
    place = cache.begin(new(ids, mask))
    return place.query, place.key


def fed(cache: KVCache, layers: int, ids: Tensor, mask: Tensor | None, start: int) -> list[tuple[Tensor, Tensor]]:
    """One forward pass whose keys are (row, layer, slot) and whose values are their negatives."""
    rows, time = ids.shape
    cache.begin(new(ids, mask))
    out = []
    for layer in range(layers):
        place = torch.cartesian_prod(torch.arange(rows), torch.tensor([layer]), torch.arange(start, start + time))
        k = place.view(rows, 1, time, 3).float()
        out.append(cache.slot(layer).extend(k, -k))
    return out


@given(st.lists(st.integers(1, 70), min_size=1, max_size=5), st.integers(1, 3))
def test_every_slot_is_kept_through_growth(pieces: list[int], rows: int) -> None:
    cache, layers, start = KVCache(2), 2, 0
    for piece in pieces:
        for layer, (k, v) in enumerate(fed(cache, layers, torch.zeros(rows, piece, dtype=torch.long), None, start)):
            keys = start + piece
            expected = torch.cartesian_prod(torch.arange(rows), torch.tensor([layer]), torch.arange(keys))
            assert torch.equal(k, expected.view(rows, 1, keys, 3).float())
            assert torch.equal(v, -k)
        start += piece
    assert cache.length == start
    assert cache.gapless


def test_room_doubles() -> None:
    cache, rooms = KVCache(1), []
    for token in range(130):
        ((k, _),) = fed(cache, 1, torch.zeros(1, 1, dtype=torch.long), None, token)
        assert k.shape[2] == token + 1
        rooms.append(k.untyped_storage().nbytes() // (3 * 4))
    ((k, _),) = fed(KVCache(1), 1, torch.zeros(1, 200, dtype=torch.long), None, 0)  # a long prompt, at once
    rooms.append(k.untyped_storage().nbytes() // (3 * 4))
    assert rooms == [64] * 64 + [128] * 64 + [256] * 3


def test_positions_start_at_the_first_real_token() -> None:
    cache = KVCache(2)
    ids = torch.zeros(2, 4, dtype=torch.long)
    mask = torch.tensor([[True] * 4, [False, False, True, True]])
    query, keys = placed(cache, ids, mask)
    assert isinstance(cache, State)
    assert isinstance(cache.slot(0), Slot)
    assert query.tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert keys.tolist() == [[0, 1, 2, 3], [-1, -1, 0, 1]]
    assert not cache.gapless
    query, keys = placed(cache, ids[:, :2])
    assert query.tolist() == [[4, 5], [2, 3]]
    assert keys.tolist() == [[0, 1, 2, 3, 4, 5], [-1, -1, 0, 1, 2, 3]]
    query, keys = placed(cache, ids[:, :2], torch.tensor([[True, False], [True, True]]))
    assert keys[:, 6:].tolist() == [[6, -1], [4, 5]]
    query, _ = placed(cache, ids[:, :1])
    assert query.tolist() == [[7], [6]]


def test_rows_that_leave() -> None:
    cache = KVCache(1)
    mask = torch.tensor([[True] * 3, [False, True, True], [False, False, True]])
    fed(cache, 1, torch.zeros(3, 3, dtype=torch.long), mask, 0)
    cache.keep(torch.tensor([2, 0]))
    query, keys = placed(cache, torch.zeros(2, 1, dtype=torch.long))
    assert query.tolist() == [[1], [3]]
    assert keys.tolist() == [[-1, -1, 0, 1], [0, 1, 2, 3]]
    k, v = cache.slot(0).extend(torch.full((2, 1, 1, 3), 9.0), torch.full((2, 1, 1, 3), 8.0))
    assert k[:, 0, :, 0].tolist() == [[2, 2, 2, 9], [0, 0, 0, 9]]
    assert v[:, 0, :, 0].tolist() == [[-2, -2, -2, 8], [0, 0, 0, 8]]


def test_segments_count_by_themselves() -> None:
    """Two texts in one row, each with positions of its own; a third begins later, and padding belongs to none."""
    cache, ids = KVCache(1), torch.zeros(1, 5, dtype=torch.long)
    place = cache.begin(new(ids, segments=torch.tensor([[1, 1, 2, 2, 2]])))
    assert place.query.tolist() == [[0, 1, 0, 1, 2]]
    mask = torch.tensor([[True, True, False, True]])
    place = cache.begin(new(ids[:, :4], mask, torch.tensor([[2, 1, 1, 3]])))
    assert place.query[mask].tolist() == [3, 2, 0]
    assert place.key.tolist() == [[0, 1, 0, 1, 2, 3, 2, -1, 0]]
    assert place.query_segments.tolist() == [[2, 1, 1, 3]]  # type: ignore[union-attr]
    assert place.key_segments.tolist() == [[1, 1, 2, 2, 2, 2, 1, 1, 3]]  # type: ignore[union-attr]
    place = cache.begin(new(ids[:, :1]))  # tokens without a segment are in segment 0
    assert place.key_segments[:, -1].tolist() == [0]  # type: ignore[index]
