"""Who sees whom: every lowered form equals a plain double loop, and the cheapest form that can is taken."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from langwright.parts.bias import Bias, Lowered, Places

BIASES = [Bias(), Bias(causal=True), Bias(causal=True, window=1), Bias(causal=True, window=3)]


def dense(queries: int, keys: int) -> Places:
    """The last `queries` of `keys` tokens in a row."""
    positions = torch.arange(keys)[None]
    return Places(positions[:, keys - queries :], positions, dense=True)


def table(lowered: Lowered, queries: int, keys: int) -> Tensor:
    """What a lowered bias allows, as [batch, queries, keys]."""
    if lowered.causal:
        assert queries == keys  # what the kernel's own triangle means is clear for squares only
        return torch.ones(1, queries, keys, dtype=torch.bool).tril()
    return torch.ones(1, queries, keys, dtype=torch.bool) if lowered.allowed is None else lowered.allowed[:, 0]


def seen(bias: Bias, query: int, key: int, same_document: bool = True) -> bool:
    """The definition, for one query position and one key position (-1 for padding)."""
    past = not bias.causal or key <= query
    near = bias.window is None or query - key < bias.window
    return key >= 0 and past and near and same_document


@given(st.sampled_from(BIASES), st.integers(1, 7), st.integers(0, 5))
def test_rows_without_padding(bias: Bias, queries: int, earlier: int) -> None:
    keys = queries + earlier
    lowered = bias.lower(dense(queries, keys))
    expected = [[seen(bias, q, k) for k in range(keys)] for q in range(earlier, keys)]
    assert table(lowered, queries, keys)[0].tolist() == expected
    nothing_to_hide = all(map(all, expected))
    triangle = bias.causal and queries == keys and (bias.window is None or keys <= bias.window)
    if nothing_to_hide:
        assert lowered == Lowered(causal=triangle and queries > 1)
    elif triangle:
        assert lowered == Lowered(causal=True)


@given(st.sampled_from(BIASES), st.data())
def test_padding_positions_and_segments(bias: Bias, data: st.DataObject) -> None:
    rows, queries, keys = (data.draw(st.integers(1, n)) for n in (3, 4, 6))
    draw = lambda low, high, width: torch.tensor(  # noqa: E731
        data.draw(st.lists(st.lists(st.integers(low, high), min_size=width, max_size=width), min_size=rows, max_size=rows))
    )
    query, key = draw(0, 6, queries), draw(-1, 6, keys)
    segments = (draw(0, 1, queries), draw(0, 1, keys)) if data.draw(st.booleans()) else (None, None)
    lowered = bias.lower(Places(query, key, False, *segments))
    expected = [
        [
            [
                seen(bias, int(query[r, q]), int(key[r, k]), segments[0] is None or bool(segments[0][r, q] == segments[1][r, k]))
                for k in range(keys)
            ]
            for q in range(queries)
        ]
        for r in range(rows)
    ]
    assert table(lowered, queries, keys).tolist() == expected


def test_segments_are_seen_in_rows_without_padding() -> None:
    segments = torch.tensor([[0, 0, 1]])
    places = dense(3, 3)
    lowered = Bias(causal=True).lower(Places(places.query, places.key, True, segments, segments))
    assert table(lowered, 3, 3)[0].tolist() == [[True, False, False], [True, True, False], [False, False, True]]


@given(st.sampled_from(BIASES), st.integers(1, 5), st.integers(0, 4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_scores_say_the_same(bias: Bias, queries: int, earlier: int, dtype: torch.dtype) -> None:
    keys = queries + earlier
    lowered = bias.lower(dense(queries, keys))
    scores = lowered.additive(queries, keys, torch.zeros((), dtype=dtype)).scores
    if scores is None:
        assert lowered == Lowered()
    else:
        assert scores.dtype == dtype
        assert scores.isfinite().all()
        assert torch.equal(scores[:, 0] == 0, table(lowered, queries, keys))
        assert set(scores.unique().tolist()) <= {0.0, torch.finfo(dtype).min}
