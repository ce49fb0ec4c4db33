"""All heads at a glance: every map in its place, the bias where it changes."""

import re

import numpy as np
import pytest

from langwright.viewing.attention_heads import LayerHeads, heads_figure
from langwright.viewing.page import Section, page
from viewing.markup import HOSTILE, check_self_contained, parse, words

TOKENS = ["def", "Ġread", "("]
CAUSAL = np.where(np.tri(3) > 0, 0.0, -np.inf)[None]


def diagonal(heads: int) -> np.ndarray:
    return np.repeat(np.eye(3)[None], heads, 0)


def cells(markup: str, index: int, kind: str) -> dict[tuple[int, int], float]:
    """(row, column) of every cell of a map, with its opacity."""
    found = {}
    for path in list(parse(markup).iter("svg"))[index].iter("path"):
        if path.get("class") == kind:
            for column, row, width in re.findall(r"M(\d+) (\d+)h(\d+)v1", path.get("d", "")):
                for place in range(int(column), int(column) + int(width)):
                    found[int(row), place] = float(path.get("fill-opacity", "1"))
    return found


def test_rows_are_queries_and_columns_are_keys() -> None:
    weights = np.array([[[1.0, 0, 0], [0.75, 0.25, 0], [0, 1, 0]]])
    shown = heads_figure([LayerHeads(weights)], TOKENS)
    assert cells(shown, 0, "heat") == {(0, 0): 1.0, (1, 0): 0.85, (1, 1): 0.5, (2, 1): 1.0}
    assert "Layer 0, head 0: 38 % to the first token, 88 % to the one before, 12 % to itself" in words(shown)


def test_neighbours_of_one_strength_are_one_rectangle() -> None:
    shown = heads_figure([LayerHeads(np.full((1, 3, 3), 0.25))], TOKENS)
    assert shown.count("h3v1h-3z") == 3


def test_the_bias_stands_where_it_changes() -> None:
    slope = CAUSAL - np.arange(3)[::-1]
    layers = [LayerHeads(diagonal(2), CAUSAL), LayerHeads(diagonal(2), CAUSAL), LayerHeads(diagonal(2), slope)]
    shown = heads_figure(layers, TOKENS)
    headings = [heading.text for heading in parse(shown).iter("h3")]
    assert headings == ["bias from layer 0", "layer 0", "layer 1", "bias from layer 2", "layer 2"]
    assert set(cells(shown, 0, "hidden-key")) == {(0, 1), (0, 2), (1, 2)}
    assert cells(shown, 0, "cold") == {}
    assert cells(shown, 5, "cold") == {(0, 0): 1.0, (1, 0): 1.0, (2, 0): 1.0, (1, 1): 0.5, (2, 1): 0.5}
    assert "scores change by -2 to 0" in words(shown)


def test_what_a_bias_adds_and_takes_are_two_colours() -> None:
    learned = np.array([[[0.0, 2, 0], [-1, 0, 2], [0, -1, 0]]])
    shown = heads_figure([LayerHeads(diagonal(1), learned)], TOKENS)
    assert cells(shown, 0, "warm") == {(0, 1): 1.0, (1, 2): 1.0}
    assert cells(shown, 0, "cold") == {(1, 0): 0.5, (2, 1): 0.5}
    assert "scores change by -1 to 2" in words(shown)
    assert "green what it adds" in words(shown)


def test_queries_and_keys_may_differ() -> None:
    weights = np.array([[[0.75, 0.25], [1, 0], [0.5, 0.5]]])
    shown = heads_figure([LayerHeads(weights)], TOKENS, ["Ġeat", "<eos>"])
    assert cells(shown, 0, "heat")[2, 1] == 0.7
    assert "Layer 0, head 0: 75 % to ·eat, 25 % to <eos>" in words(shown)
    assert "Queries, from the top: def ·read (. Keys, from the left: ·eat <eos>" in words(shown)
    assert "Orange" not in words(shown)


@pytest.mark.parametrize(("queries", "keys", "ratio"), [(3, 2, "0.667"), (1, 40, "2"), (40, 1, "0.5")])
def test_long_texts_beside_short_ones_stay_small(queries: int, keys: int, ratio: str) -> None:
    flat = np.full((1, queries, keys), 1 / keys)
    shown = heads_figure([LayerHeads(flat)], ["a"] * queries, ["b"] * keys)
    assert f"aspect-ratio:{ratio}" in shown


def test_a_page_of_hostile_tokens_is_whole() -> None:
    shown = page("t", [Section("a", "A", heads_figure([LayerHeads(diagonal(1))], [HOSTILE, "\n", "</p>"]))])
    check_self_contained(shown)


def test_many_layers_stay_small() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(64), (12, 64))
    assert len(heads_figure([LayerHeads(weights)] * 2, ["token"] * 64)) < 1_000_000


@pytest.mark.parametrize(
    "layer",
    [LayerHeads(np.ones((3, 3))), LayerHeads(np.ones((1, 2, 3))), LayerHeads(diagonal(1), np.ones((1, 2, 2)))],
)
def test_shapes_that_do_not_fit_are_refused(layer: LayerHeads) -> None:
    with pytest.raises(ValueError, match="fit 3 query and 3 key tokens"):
        heads_figure([layer], TOKENS)
