"""All heads of all layers at a glance: one small heat map a head, a row of them a layer, and what the bias adds.

For one layer in full, with its tokens, see `attention.py`, whose colours these are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from langwright.viewing.heat import cells, named_most, shades, small_map, strength
from langwright.viewing.page import Html, element
from langwright.viewing.text import percent, visible

_LABELLED = 24  # tokens: with more, their names would not be legible beside a small map


@dataclass(frozen=True)
class LayerHeads:
    """One layer: `weights` [heads, queries, keys], and `bias` [1 or heads, queries, keys], added to the scores.

    In `bias` a key that may not be seen is -inf; None shows no bias.
    """

    weights: ArrayLike
    bias: ArrayLike | None = None


def heads_figure(layers: Sequence[LayerHeads], queries: Sequence[str], keys: Sequence[str] | None = None) -> Html:
    """A grid with a row a layer and a column a head; beside each layer whose bias differs from the last, that bias.

    Args:
        layers: what to draw, from the top.
        queries: the tokens, one a row of each map.
        keys: the tokens, one a column; None for self-attention.

    Raises:
        ValueError: shapes do not fit.
    """
    shape = len(queries), len(queries if keys is None else keys)
    columns = None if keys is None else [visible(key) for key in keys]
    rows: list[Html] = []
    shown: NDArray[np.float64] | None = None
    for number, layer in enumerate(layers):
        weights = np.asarray(layer.weights, np.float64)
        if weights.ndim != 3 or weights.shape[1:] != shape or not weights.size:
            raise ValueError(f"weights {weights.shape} of layer {number} do not fit {_tokens(shape)}")
        bias = None if layer.bias is None else np.asarray(layer.bias, np.float64)
        if bias is not None and (bias.ndim != 3 or bias.shape[1:] != shape):
            raise ValueError(f"a bias {bias.shape} of layer {number} does not fit {_tokens(shape)}")
        if bias is not None and (shown is None or not np.array_equal(shown, bias)):
            shown = bias
            rows.append(_row(f"bias from layer {number}", [_bias_map(one, number) for one in bias]))
        rows.append(
            _row(f"layer {number}", [_head_map(one, number, head, columns) for head, one in enumerate(weights)])
        )
    names = _names([visible(query) for query in queries], columns) if max(shape) <= _LABELLED else ""
    return element("div", {"class": "all-heads"}, *rows, names, _legend(with_bias=shown is not None))


def _tokens(shape: tuple[int, int]) -> str:
    return f"{shape[0]} query and {shape[1]} key tokens"


def _names(rows: Sequence[str], columns: Sequence[str] | None) -> Html:
    """Which tokens the rows and columns of every map are."""
    if columns is None:
        return element("p", {"class": "note"}, "Tokens, from the top and from the left: ", " ".join(rows))
    words = "Queries, from the top: ", " ".join(rows), ". Keys, from the left: ", " ".join(columns)
    return element("p", {"class": "note"}, *words)


def _row(name: str, maps: Sequence[Html]) -> Html:
    return element("div", {"class": "layer"}, element("h3", None, name), element("div", {"class": "maps"}, *maps))


def _head_map(weights: NDArray[np.float64], layer: int, head: int, keys: Sequence[str] | None) -> Html:
    """A head's weights, stronger colour for more, and in words how much goes where in the mean over queries."""
    words = f"Layer {layer}, head {head}: {_of_itself(weights) if keys is None else _of_keys(weights, keys)}"
    return _map(weights.shape, shades(strength(weights), "heat"), f"head {head}", words)


def _of_itself(weights: NDArray[np.float64]) -> str:
    """Self-attention: by the places that heads are known for."""
    time = len(weights)
    rows = weights[1:] if time > 1 else weights
    first, itself = rows[:, 0].mean(), np.diagonal(weights)[-len(rows) :].mean()
    before = np.diagonal(weights, -1).mean() if time > 1 else 0.0
    return (
        f"{percent(float(first))} to the first token, {percent(float(before))} to the one before, "
        f"{percent(float(itself))} to itself"
    )


def _of_keys(weights: NDArray[np.float64], keys: Sequence[str]) -> str:
    """Cross-attention: by the keys that are read most."""
    return ", ".join(f"{percent(share)} to {key}" for key, share in named_most(weights.mean(0), keys))


def _bias_map(bias: NDArray[np.float64], layer: int) -> Html:
    """What is added: nothing is blank, a change the stronger the larger, and a key that may not be seen is grey."""
    hidden = ~np.isfinite(bias)
    added = np.where(hidden, 0, bias)
    low, high, largest = added.min(), added.max(), np.abs(added).max()
    caption = f"{low:.2g} to {high:.2g}" if largest else "who sees whom"
    words = f"scores change by {low:.3g} to {high:.3g}" if largest else "nothing is added"
    change = added / largest if largest else added
    paths = [
        element("path", {"class": "hidden-key", "d": cells(hidden)}),
        *shades(np.maximum(-change, 0), "cold"),
        *shades(np.maximum(change, 0), "warm"),
    ]
    return _map(bias.shape, paths, caption, f"Bias from layer {layer}: {words}; grey keys cannot be seen")


def _map(shape: tuple[int, ...], paths: Sequence[Html], caption: str, words: str) -> Html:
    picture = small_map(shape, {"role": "img", "aria-label": words}, element("title", None, words), *paths)
    return element("figure", None, picture, element("figcaption", None, caption))


def _legend(with_bias: bool) -> Html:
    items = [
        "Rows are queries, columns are keys, both in reading order from the upper left corner.",
        "Blue is attention, as strong as the square root of the weight. Point at a map to read it.",
    ]
    if with_bias:
        items.append("Orange is what the bias takes from a score, green what it adds, grey a key that it hides.")
    return element("ul", {"class": "cautions"}, *(element("li", None, item) for item in items))
