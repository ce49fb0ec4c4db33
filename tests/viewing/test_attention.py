"""Attention maps: the right cell, the right names, the right cautions."""

import re

import numpy as np
import pytest

from langwright.viewing.attention import CAUTIONS, attention_figure
from langwright.viewing.page import Section, page
from viewing.markup import HOSTILE, check_self_contained, parse, words

TOKENS = ["def", "Ġread", "(", "Ċ"]


def causal(heads: int = 2, length: int = 4) -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=(heads, length, length))
    weights = np.exp(scores) * np.tri(length)
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def cells(markup: str, head: int) -> dict[tuple[int, int], float]:
    """(query, key) of every coloured cell of a head, with its opacity."""
    group = next(g for g in parse(markup).iter("g") if g.get("id") == f"attention-heat-{head}")
    found = {}
    for path in group:
        for column, row, width in re.findall(r"M(\d+) (\d+)h(\d+)v1", path.get("d", "")):
            for place in range(int(column), int(column) + int(width)):
                found[int(row), place] = float(path.get("fill-opacity", ""))
    return found


def test_rows_are_queries_and_columns_are_keys() -> None:
    weights = np.zeros((2, 4, 4))
    weights[0, 2, 1] = 1.0
    weights[1, 3, 0], weights[1, 3, 3] = 0.25, 0.75
    shown = attention_figure(weights, TOKENS)
    assert cells(shown, 0) == {(2, 1): 1.0}
    assert cells(shown, 1) == {(3, 0): 0.5, (3, 3): pytest.approx(0.75**0.5, abs=0.03)}


def test_masked_keys_are_blank() -> None:
    for query, key in cells(attention_figure(causal(), TOKENS), 1):
        assert key <= query


def test_tokens_label_both_sides_and_rows_can_be_read() -> None:
    shown = attention_figure(causal(), TOKENS)
    texts = [text.text for text in parse(shown).iter("text")]
    assert texts.count("·read") == 4
    assert texts.count("↵") == 4
    assert {"key →", "query ↓"} <= set(texts)
    titles = [title.text or "" for title in parse(shown).iter("title")]
    assert len(titles) == 8
    assert titles[0] == "def looks at def 100 %"
    assert titles[1].startswith("·read looks at ")
    assert all(caution in words(shown) for caution in CAUTIONS)


def test_one_head_is_shown_large_at_first() -> None:
    buttons = list(parse(attention_figure(causal(3), TOKENS)).iter("input"))
    assert [button.get("checked") for button in buttons] == ["checked", None, None]
    assert {button.get("name") for button in buttons} == {"attention"}


def test_queries_and_keys_may_differ() -> None:
    weights = np.full((1, 2, 3), 1 / 3)
    shown = attention_figure(weights, ["a", "b"], ["x", "y", "z"], name="cross")
    assert 'id="cross-heat-0"' in shown
    assert len([text for text in parse(shown).iter("text") if text.text == "z"]) == 1


def test_two_figures_share_a_page() -> None:
    body = [attention_figure(causal(), TOKENS, name=name) for name in ("first", "second")]
    shown = page("t", [Section("a", "A", body[0]), Section("b", "B", body[1])])
    ids = re.findall(r' id="([^"]+)"', shown)
    assert len(ids) == len(set(ids))
    check_self_contained(shown)


def test_hostile_tokens_stay_text() -> None:
    shown = attention_figure(causal(1, 2), [HOSTILE, "\n"])
    parse(shown)
    check_self_contained(shown)


def test_long_lines_stay_small() -> None:
    shown = attention_figure(causal(8, 96), ["token"] * 96)
    assert len(shown) < 1_500_000


@pytest.mark.parametrize(
    ("weights", "tokens", "name"),
    [
        (np.ones((1, 2, 2)), ["a"], "attention"),
        (np.ones((2, 2)), ["a", "b"], "attention"),
        (np.ones((0, 2, 2)), ["a", "b"], "attention"),
        (np.full((1, 1, 1), np.nan), ["a"], "attention"),
        (-np.ones((1, 1, 1)), ["a"], "attention"),
        (np.ones((1, 1, 1)), ["a"], "x}<style>"),
    ],
)
def test_impossible_weights_are_refused(weights: np.ndarray, tokens: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=r"fit|finite|identifier"):
        attention_figure(weights, tokens, name=name)
