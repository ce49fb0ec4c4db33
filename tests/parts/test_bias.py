"""Who sees whom: every lowered form equals a plain double loop, and the cheapest form that can is taken."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from langwright.parts.bias import Alibi, Bias, Lowered, Places, RelativeBias

BIASES = [Bias(), Bias(causal=True), Bias(causal=True, window=1), Bias(causal=True, window=3)]


def gapless(queries: int, keys: int) -> Places:
    """The last `queries` of `keys` tokens in a row."""
    positions = torch.arange(keys)[None]
    return Places(positions[:, keys - queries :], positions, gapless=True)


def table(lowered: Lowered, queries: int, keys: int) -> Tensor:
    """What a lowered bias allows, as [batch, queries, keys]."""
    if lowered.causal:
        assert queries == keys  # what the kernel's own triangle means is clear for squares only
        return torch.ones(1, queries, keys, dtype=torch.bool).tril()
    if lowered.allowed is None:
        return torch.ones(1, queries, keys, dtype=torch.bool)
    return lowered.allowed[:, 0].expand(-1, queries, -1)


def seen(bias: Bias, query: int, key: int, same_document: bool = True) -> bool:
    """The definition, for one query position and one key position (-1 for padding)."""
    past = not bias.causal or key <= query
    near = bias.window is None or query - key < bias.window
    return key >= 0 and past and near and same_document


@given(st.sampled_from(BIASES), st.integers(1, 7), st.integers(0, 5))
def test_rows_without_padding(bias: Bias, queries: int, earlier: int) -> None:
    keys = queries + earlier
    lowered = bias.lower(gapless(queries, keys))
    expected = [[seen(bias, q, k) for k in range(keys)] for q in range(earlier, keys)]
    assert table(lowered, queries, keys)[0].tolist() == expected
    nothing_to_hide = all(map(all, expected))
    triangle = bias.causal and queries == keys and (bias.window is None or keys <= bias.window)
    if nothing_to_hide:
        assert lowered == Lowered(causal=triangle and queries > 1)
    elif triangle:
        assert lowered == Lowered(causal=True)


def rows_of(low: int, high: int, rows: int, width: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.integers(low, high), min_size=width, max_size=width), min_size=rows, max_size=rows)


@given(st.sampled_from(BIASES), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.booleans(), st.data())
def test_padding_positions_and_segments(
    bias: Bias, rows: int, queries: int, keys: int, packed: bool, data: st.DataObject
) -> None:
    query, key = data.draw(rows_of(0, 6, rows, queries)), data.draw(rows_of(-1, 6, rows, keys))
    of_query, of_key = ([[0] * queries] * rows, [[0] * keys] * rows)
    if packed:
        of_query, of_key = data.draw(rows_of(0, 1, rows, queries)), data.draw(rows_of(0, 1, rows, keys))
    segments = (torch.tensor(of_query), torch.tensor(of_key)) if packed else (None, None)
    lowered = bias.lower(Places(torch.tensor(query), torch.tensor(key), False, *segments))
    expected = [
        [
            [seen(bias, query[r][q], key[r][k], of_query[r][q] == of_key[r][k]) for k in range(keys)]
            for q in range(queries)
        ]
        for r in range(rows)
    ]
    assert table(lowered, queries, keys).tolist() == expected


def test_segments_are_seen_in_rows_without_padding() -> None:
    segments = torch.tensor([[0, 0, 1]])
    places = gapless(3, 3)
    lowered = Bias(causal=True).lower(Places(places.query, places.key, True, segments, segments))
    assert table(lowered, 3, 3)[0].tolist() == [[True, False, False], [True, True, False], [False, False, True]]


@given(st.sampled_from(BIASES), st.integers(1, 5), st.integers(0, 4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_scores_say_the_same(bias: Bias, queries: int, earlier: int, dtype: torch.dtype) -> None:
    keys = queries + earlier
    lowered = bias.lower(gapless(queries, keys))
    scores = lowered.additive(queries, keys, torch.zeros((), dtype=dtype)).scores
    if scores is None:
        assert lowered == Lowered()
    else:
        assert scores.dtype == dtype
        assert scores.isfinite().all()
        assert torch.equal(scores[:, 0] == 0, table(lowered, queries, keys))
        assert set(scores.unique().tolist()) <= {0.0, torch.finfo(dtype).min}


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [2**-8]),
        (4, [2**-2, 2**-4, 2**-6, 2**-8]),
        (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
    ],
)
def test_slopes_of_alibi(heads: int, slopes: list[float]) -> None:
    """As the authors' code gives them, also where the number of heads is no power of two."""
    assert Alibi(heads).slopes() == pytest.approx(slopes)


@given(st.booleans(), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_a_term_is_added_where_a_key_is_seen(causal: bool, queries: int, earlier: int, padded: bool) -> None:
    places = gapless(queries, queries + earlier)
    if padded:
        places = Places(places.query, places.key.masked_fill(places.key == 0, -1), gapless=False)
    lowered = Bias(causal=causal, term=Alibi(6)).lower(places)
    allowed = table(Bias(causal=causal).lower(places), queries, queries + earlier)
    assert lowered.scores is not None
    assert lowered.scores.isfinite().all()
    for q in range(queries):
        for k in range(queries + earlier):
            expected = [-slope * abs(q + earlier - k) for slope in Alibi(6).slopes()]
            if allowed[0, q, k]:
                assert lowered.scores[0, :, q, k].tolist() == pytest.approx(expected)
            else:
                assert lowered.scores[0, :, q, k].eq(torch.finfo(torch.float32).min).all()


@pytest.mark.parametrize("both", [True, False])
def test_buckets_of_relative_positions(both: bool) -> None:
    """Half of the buckets hold one distance each, the others grow by a constant factor up to 128."""
    table = RelativeBias(2, 32, 128, both=both)
    distances = torch.arange(-200, 201)
    found = dict(zip(distances.tolist(), table.buckets(distances[None, :])[0].tolist(), strict=True))
    exact, last = (8, 15) if both else (16, 31)
    assert [found[-d] for d in range(exact)] == list(range(exact))
    assert found[-127] == found[-128] == found[-200] == last
    assert found[-exact] == exact
    row = [found[-d] for d in range(201)]
    assert row == sorted(row)
    assert set(row) == set(range(last + 1))
    later = [found[d] for d in range(1, 201)]
    assert later == ([bucket + 16 for bucket in row[1:]] if both else [0] * 200)
