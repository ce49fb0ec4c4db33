"""All heads of all layers at a glance: one small heat map a head, a row of them a layer, and what the bias adds.

For one layer in full, with its tokens, see `attention.py`, whose colours these are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from langwright.viewing.page import Html, element
from langwright.viewing.text import percent, visible

_LEVELS = 10  # steps of colour
_LABELLED = 24  # tokens: with more, their names would not be legible beside a small map


@dataclass(frozen=True)
class LayerHeads:
    """One layer: `weights` [heads, time, time], and `bias` [1 or heads, time, time], what was added to the scores.

    In `bias` a key that may not be seen is -inf; None shows no bias.
    """

    weights: ArrayLike
    bias: ArrayLike | None = None


def heads_figure(layers: Sequence[LayerHeads], tokens: Sequence[str]) -> Html:
    """A grid with a row a layer and a column a head; beside each layer whose bias differs from the last, that bias.

    tokens: the text that was read, one a row and one a column of each map. Raises ValueError where shapes do not fit.
    """
    time, names = len(tokens), [visible(token) for token in tokens]
    rows: list[Html] = []
    shown: NDArray[np.float64] | None = None
    for number, layer in enumerate(layers):
        weights = np.asarray(layer.weights, np.float64)
        if weights.ndim != 3 or weights.shape[1:] != (time, time) or not weights.size:
            raise ValueError(f"weights {weights.shape} of layer {number} do not fit {time} tokens")
        bias = None if layer.bias is None else np.asarray(layer.bias, np.float64)
        if bias is not None and (bias.ndim != 3 or bias.shape[1:] != (time, time)):
            raise ValueError(f"a bias {bias.shape} of layer {number} does not fit {time} tokens")
        if bias is not None and (shown is None or not np.array_equal(shown, bias)):
            shown = bias
            rows.append(_row(f"bias from layer {number}", [_bias_map(one, number, names) for one in bias]))
        rows.append(_row(f"layer {number}", [_head_map(one, number, head) for head, one in enumerate(weights)]))
    text = element("p", {"class": "note"}, "Tokens, from the top and from the left: ", " ".join(names))
    return element("div", {"class": "all-heads"}, *rows, text if time <= _LABELLED else "", _legend())


def _row(name: str, maps: Sequence[Html]) -> Html:
    return element("div", {"class": "layer"}, element("h3", None, name), element("div", {"class": "maps"}, *maps))


def _head_map(weights: NDArray[np.float64], layer: int, head: int) -> Html:
    """A head's weights, stronger colour for more, and in words how much goes where in the mean over queries."""
    time = len(weights)
    rows = weights[1:] if time > 1 else weights
    first, itself = rows[:, 0].mean(), np.diagonal(weights)[-len(rows) :].mean()
    before = np.diagonal(weights, -1).mean() if time > 1 else 0.0
    words = (
        f"Layer {layer}, head {head}: {percent(float(first))} to the first token, "
        f"{percent(float(before))} to the one before, {percent(float(itself))} to itself"
    )
    return _map(np.sqrt(np.minimum(weights, 1)), "heat", f"head {head}", words)


def _bias_map(bias: NDArray[np.float64], layer: int, names: Sequence[str]) -> Html:
    """What is added: nothing is blank, a penalty the stronger the larger, and a key that may not be seen is grey."""
    finite = np.isfinite(bias)
    sizes = np.where(finite, np.abs(np.where(finite, bias, 0)), 0)
    largest = sizes.max()
    words = f"Bias from layer {layer}: " + (
        f"scores change by up to {np.where(finite, bias, 0).min():.3g}" if largest else "nothing is added"
    )
    shades = sizes / largest if largest else sizes
    hidden = element("path", {"class": "hidden-key", "d": _cells(~finite)})
    caption = f"0 to {np.where(finite, bias, 0).min():.2g}" if largest else "who sees whom"
    return _map(shades, "cold", caption, f"{words}; grey keys cannot be seen", hidden)


def _map(strength: NDArray[np.float64], kind: str, caption: str, words: str, below: Html | None = None) -> Html:
    height, width = strength.shape
    levels = np.rint(strength * _LEVELS).astype(int)
    paths = [
        element("path", {"class": kind, "fill-opacity": level / _LEVELS, "d": _cells(levels == level)})
        for level in range(1, _LEVELS + 1)
        if (levels == level).any()
    ]
    frame = element("rect", {"class": "frame", "width": width, "height": height})
    size: dict[str, str | float] = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": words}
    picture = element("svg", size, element("title", None, words), below or "", *paths, frame)
    return element("figure", None, picture, element("figcaption", None, caption))


def _cells(chosen: NDArray[np.bool_]) -> str:
    """A path over the chosen cells; neighbours in a row are one rectangle, so that long texts stay small."""
    edges = np.diff(np.pad(chosen.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return "".join(
        f"M{begin} {row}h{end - begin}v1h-{end - begin}z"
        for (row, begin), (_, end) in zip(begins.tolist(), ends.tolist(), strict=True)
    )


def _legend() -> Html:
    return element(
        "ul",
        {"class": "cautions"},
        element("li", None, "Rows are queries, columns are keys, both in reading order from the upper left corner."),
        element(
            "li", None, "Blue is attention, as strong as the square root of the weight. Point at a map to read it."
        ),
        element("li", None, "Orange is what the bias takes from a score, grey a key that it hides."),
    )
