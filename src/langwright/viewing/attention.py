"""Attention as heat maps, query tokens as rows and key tokens as columns: all heads at a glance, or one layer in full.

Of one layer all heads are shown small; a click (or the arrow keys) chooses the one shown large with its tokens. No
script: the choice is a group of radio buttons.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from langwright.viewing.page import Html, macro
from langwright.viewing.text import percent, visible

Weights = NDArray[np.floating]

CAUTIONS = (
    "A row shows where one query token looks. Its weights sum to 1 over the keys it may see.",
    "A strong first column is normal: heads that have nothing to fetch rest on the first token, the attention sink.",
    "Each head is shown by itself, because an average over heads hides their structure.",
    "Attention says where a layer reads, not why the model answers as it does: it is not an explanation.",
)
CROSS_CAUTIONS = (
    "A row shows where the decoder looks in the source while it holds this token and is about to choose the next. Its "
    "weights sum to 1 over the source.",
    *CAUTIONS[2:],
)
LEVELS = 20
"""Steps of colour."""

_LARGEST, _SMALLEST = 28, 10  # pixels a token in the large picture; smaller, its name could not be read
_WIDEST = 720  # a line too long for that is as wide as it must be, and scrolls
_MARGIN = 72  # at least this much room for tokens, and for the names of the axes in the corner
_KEY = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)  # weights in the legend
_LABELLED = 24  # tokens: with more, their names would not be legible beside a small map


class LayerHeads(NamedTuple):
    """One layer: `weights` [heads, queries, keys], and `bias` [1 or heads, queries, keys], added to the scores.

    In `bias` a key that may not be seen is -inf; None shows no bias.
    """

    weights: Weights
    bias: Weights | None = None


class _Map(NamedTuple):
    """A small map: [rows, columns], a path with class and opacity for each step of colour, and two descriptions."""

    shape: tuple[int, ...]
    shades: Sequence[tuple[str, float, str]]
    caption: str
    words: str


def attention_figure(
    weights: Weights,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    name: str = "attention",
    cautions: Sequence[str] = CAUTIONS,
) -> Html:
    """The heads of one layer, with words of caution.

    Args:
        weights: [heads, query, key], the layout that bertviz users know.
        queries: the tokens as strings, one a row.
        keys: the tokens, one a column; None for self-attention.
        name: an identifier of its own among the figures of a page.
        cautions: sentences below the figure.
    """
    rows, columns = [visible(q) for q in queries], [visible(k) for k in (queries if keys is None else keys)]
    heads = []
    for number, head in enumerate(weights.astype(float)):
        most = [f"{q} looks most at {columns[int(row.argmax())]}." for q, row in zip(rows, head, strict=True)]
        words = f"Head {number}: rows are queries, columns are keys. {' '.join(most)}"
        looks = [f"{q} looks at {_named_most(row, columns, '{} {}')}" for q, row in zip(rows, head, strict=True)]
        heads.append((_Map(head.shape, _shades(_strength(head)), "", words), looks))
    cell = min(_LARGEST, max(_SMALLEST, _WIDEST / len(columns)))
    font = min(13.0, 0.82 * cell)
    left, top = (max(_MARGIN, 0.62 * font * max(map(len, names)) + 14) for names in (rows, columns))
    key = list(zip(_KEY, _strength(np.array(_KEY)), strict=True))
    return macro("attention.html", "attention", name, heads, (rows, columns), (left, top, cell, font), key, cautions)


def heads_figure(layers: Sequence[LayerHeads], queries: Sequence[str], keys: Sequence[str] | None = None) -> Html:
    """A grid with a row a layer and a column a head; beside each layer whose bias differs from the last, that bias.

    Args:
        layers: what to draw, from the top.
        queries: the tokens, one a row of each map.
        keys: the tokens, one a column; None for self-attention.
    """
    rows, columns = [visible(q) for q in queries], None if keys is None else [visible(k) for k in keys]
    maps: list[tuple[str, list[_Map]]] = []
    shown: Weights | None = None
    for number, (weights, bias) in enumerate(layers):
        if bias is not None and (shown is None or not np.array_equal(shown, bias)):
            shown = bias
            maps.append((f"bias from layer {number}", [_bias_map(one, number) for one in bias]))
        heads = []
        for head, one in enumerate(weights.astype(float)):
            said = _of_itself(one) if columns is None else _named_most(one.mean(0), columns, "{1} to {0}")
            words = f"Layer {number}, head {head}: {said}"
            heads.append(_Map(one.shape, _shades(_strength(one)), f"head {head}", words))
        maps.append((f"layer {number}", heads))
    if max(len(rows), len(columns or ())) > _LABELLED:
        rows = []
    return macro("attention.html", "all_heads", maps, rows, columns, shown is not None)


def _of_itself(weights: Weights) -> str:
    """Self-attention in the mean over queries, by the places that heads are known for."""
    rows = weights[1:] if len(weights) > 1 else weights
    first, itself = rows[:, 0].mean(), np.diagonal(weights)[-len(rows) :].mean()
    before = np.diagonal(weights, -1).mean() if len(weights) > 1 else 0.0
    return f"{percent(first)} to the first token, {percent(before)} to the one before, {percent(itself)} to itself"


def _named_most(weights: Weights, names: Sequence[str], form: str) -> str:
    """The names of the three largest weights above zero with their shares, largest first."""
    best = [i for i in np.argsort(-weights, kind="stable")[:3] if weights[i] > 0]
    return ", ".join(form.format(names[i], percent(weights[i])) for i in best)


def _bias_map(bias: Weights, layer: int) -> _Map:
    """What is added: nothing is blank, a change the stronger the larger, and a key that may not be seen is grey."""
    hidden = ~np.isfinite(bias)
    added = np.where(hidden, 0, bias)
    low, high, largest = added.min(), added.max(), np.abs(added).max()
    caption = f"{low:.2g} to {high:.2g}" if largest else "who sees whom"
    words = f"scores change by {low:.3g} to {high:.3g}" if largest else "nothing is added"
    change = added / (largest or 1)
    shades = [("hidden-key", 1.0, _cells(hidden)), *_shades(-change, "cold"), *_shades(change, "warm")]
    return _Map(bias.shape, shades, caption, f"Bias from layer {layer}: {words}; grey keys cannot be seen")


def _strength(weights: Weights) -> Weights:
    """How strong the colour of an attention weight is: its square root, so that a few percent can be seen."""
    return np.sqrt(np.minimum(weights, 1))


def _shades(strengths: Weights, kind: str = "heat") -> list[tuple[str, float, str]]:
    """A path for each step of colour, of strengths from 0 (blank) to 1."""
    levels = np.rint(strengths * LEVELS).astype(int)
    return [(kind, i / LEVELS, _cells(levels == i)) for i in range(1, LEVELS + 1) if (levels == i).any()]


def _cells(chosen: NDArray[np.bool_]) -> str:
    """A path over the chosen unit squares; neighbours in a row are one rectangle, so that long texts stay small."""
    edges = np.diff(np.pad(chosen.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return "".join(
        f"M{begin} {row}h{end - begin}v1h-{end - begin}z"
        for (row, begin), (_, end) in zip(begins.tolist(), ends.tolist(), strict=True)
    )
