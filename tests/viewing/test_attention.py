"""Attention maps: every weight and bias in its cell, the right names, the right cautions."""

import re

import numpy as np
import pytest

from langwright.viewing.attention import CAUTIONS, LayerHeads, attention_figure, heads_figure
from langwright.viewing.page import Section, page
from viewing.markup import HOSTILE, cells, check_self_contained, parse, words

TOKENS = ["def", "Ġread", "(", "Ċ"]
CAUSAL = np.where(np.tri(4) > 0, 0.0, -np.inf)[None]


def causal(heads: int = 2, length: int = 4) -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=(heads, length, length))
    weights = np.exp(scores) * np.tri(length)
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def diagonal(heads: int) -> np.ndarray:
    return np.repeat(np.eye(4)[None], heads, 0)


def head_cells(markup: str, head: int) -> dict[tuple[int, int], float]:
    """Of a head of one layer in full."""
    return cells(next(g for g in parse(markup).iter("g") if g.get("id") == f"attention-heat-{head}"))


def map_cells(markup: str, index: int, kind: str = "heat") -> dict[tuple[int, int], float]:
    """Of a map among all heads."""
    return cells(list(parse(markup).iter("svg"))[index], kind)


def test_in_full_rows_are_queries_and_columns_are_keys() -> None:
    weights = np.zeros((2, 4, 4))
    weights[0, 2, 1] = 1.0
    weights[1, 3, 0], weights[1, 3, 3] = 0.25, 0.75
    shown = attention_figure(weights, TOKENS)
    assert head_cells(shown, 0) == {(2, 1): 1.0}
    assert head_cells(shown, 1) == {(3, 0): 0.5, (3, 3): pytest.approx(0.75**0.5, abs=0.03)}


def test_at_a_glance_rows_are_queries_and_columns_are_keys() -> None:
    weights = np.array([[[1.0, 0, 0, 0], [0.75, 0.25, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]])
    shown = heads_figure([LayerHeads(weights)], TOKENS)
    expected = {(0, 0): 1.0, (1, 0): 0.85, (1, 1): 0.5, (2, 1): 1.0, (3, 0): 1.0}
    assert map_cells(shown, 0) == expected
    assert "Layer 0, head 0: 58 % to the first token, 58 % to the one before, 8.3 % to itself" in words(shown)


def test_tokens_label_both_sides_and_rows_can_be_read() -> None:
    shown = attention_figure(causal(3), TOKENS)
    texts = [text.text for text in parse(shown).iter("text")]
    assert texts.count("·read") == texts.count("↵") == 6
    assert {"key →", "query ↓"} <= set(texts)
    titles = [title.text or "" for title in parse(shown).iter("title")]
    assert len(titles) == 12
    assert titles[0] == "def looks at def 100 %"
    assert titles[1].startswith("·read looks at ")
    assert all(caution in words(shown) for caution in CAUTIONS)
    buttons = list(parse(shown).iter("input"))
    assert [button.get("checked") for button in buttons] == ["checked", None, None]


def test_the_bias_stands_where_it_changes() -> None:
    slope = CAUSAL - np.arange(4)[::-1]
    layers = [LayerHeads(diagonal(2), CAUSAL), LayerHeads(diagonal(2), CAUSAL), LayerHeads(diagonal(2), slope)]
    shown = heads_figure(layers, TOKENS)
    headings = [heading.text for heading in parse(shown).iter("h3")]
    assert headings == ["bias from layer 0", "layer 0", "layer 1", "bias from layer 2", "layer 2"]
    assert set(map_cells(shown, 0, "hidden-key")) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert map_cells(shown, 0, "cold") == {}
    assert map_cells(shown, 5, "cold") == {
        (row, column): pytest.approx(1 - column / 3, abs=0.03) for row in range(4) for column in range(min(row, 2) + 1)
    }
    assert "scores change by -3 to 0" in words(shown)


def test_what_a_bias_adds_and_takes_are_two_colours() -> None:
    learned = np.array([[[0.0, 2, 0, 0], [-1, 0, 2, 0], [0, -1, 0, 0], [0, 0, 0, 0]]])
    shown = heads_figure([LayerHeads(diagonal(1), learned)], TOKENS)
    assert map_cells(shown, 0, "warm") == {(0, 1): 1.0, (1, 2): 1.0}
    assert map_cells(shown, 0, "cold") == {(1, 0): 0.5, (2, 1): 0.5}
    assert "green what it adds" in words(shown)


def test_queries_and_keys_may_differ() -> None:
    weights = np.array([[[0.75, 0.25], [1, 0], [0.5, 0.5]]])
    shown = heads_figure([LayerHeads(weights)], TOKENS[:3], ["Ġeat", "<eos>"])
    assert map_cells(shown, 0)[2, 1] == 0.7
    assert "Layer 0, head 0: 75 % to ·eat, 25 % to <eos>" in words(shown)
    assert "Queries, from the top: def ·read (. Keys, from the left: ·eat <eos>" in words(shown)
    assert "Orange" not in words(shown)
    full = attention_figure(weights, TOKENS[:3], ["x", "z"], name="cross")
    assert 'id="cross-heat-0"' in full
    assert len([text for text in parse(full).iter("text") if text.text == "z"]) == 1


@pytest.mark.parametrize(("queries", "keys", "ratio"), [(3, 2, "0.667"), (1, 40, "2"), (40, 1, "0.5")])
def test_long_texts_beside_short_ones_stay_small(queries: int, keys: int, ratio: str) -> None:
    flat = np.full((1, queries, keys), 1 / keys)
    shown = heads_figure([LayerHeads(flat)], ["a"] * queries, ["b"] * keys)
    assert f"aspect-ratio:{ratio}" in shown


def test_figures_with_hostile_tokens_share_a_page() -> None:
    tokens = [HOSTILE, "\n", "</p>", "a"]
    bodies = [attention_figure(causal(), tokens, name=name) for name in ("first", "second")]
    bodies.append(heads_figure([LayerHeads(causal(), CAUSAL)], tokens))
    shown = page("t", [Section(f"s{i}", "S", body) for i, body in enumerate(bodies)])
    ids = re.findall(r' id="([^"]+)"', shown)
    assert len(ids) == len(set(ids))
    check_self_contained(shown)


def test_long_lines_stay_small() -> None:
    assert len(attention_figure(causal(8, 96), ["token"] * 96)) < 1_500_000
    weights = np.random.default_rng(0).dirichlet(np.ones(64), (12, 64))
    assert len(heads_figure([LayerHeads(weights)] * 2, ["token"] * 64)) < 1_000_000
