"""What one layer attends to over a real line: a heat map a head, query tokens as rows, key tokens as columns.

Takes weights `[heads, query, key]`, the layout that bertviz users know. All heads are shown small; a click (or the
arrow keys) chooses the one shown large with its tokens. No script: the choice is a group of radio buttons.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from langwright.viewing.heat import frame, named_most, shades, small_map, strength
from langwright.viewing.page import Html, element, figure, join
from langwright.viewing.text import percent, visible

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

_LARGEST, _SMALLEST = 28, 10  # pixels a token in the large picture; smaller, its name could not be read
_WIDEST = 720  # a line too long for that is as wide as it must be, and scrolls
_MARGIN = 72  # at least this much room for tokens, and for the names of the axes in the corner
_KEY = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)  # weights in the legend


def attention_figure(
    weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    name: str = "attention",
    cautions: Sequence[str] = CAUTIONS,
) -> Html:
    """The heads of one layer, with words of caution.

    Args:
        weights: [heads, query, key], finite and not negative.
        queries: the tokens as strings, one a row.
        keys: the tokens, one a column; None for self-attention.
        name: an identifier of its own among the figures of a page.
        cautions: sentences below the figure.

    Raises:
        ValueError: the shapes do not fit, or a weight is impossible.
    """
    if not name.isidentifier() or not name.isascii():
        raise ValueError(f"{name!r} is not an identifier")
    array = np.asarray(weights, np.float64)
    rows, columns = [visible(q) for q in queries], [visible(k) for k in (queries if keys is None else keys)]
    if array.ndim != 3 or not array.size or array.shape[1:] != (len(rows), len(columns)):
        raise ValueError(f"weights {array.shape} do not fit {len(rows)} query and {len(columns)} key tokens")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("attention weights are finite and not negative")
    heads = range(array.shape[0])
    said = element("ul", {"class": "cautions"}, *(element("li", None, text) for text in cautions)) if cautions else ""
    return element(
        "div",
        {"class": "attention"},
        *(_choice(name, head) for head in heads),
        element("style", None, _rules(name, len(heads))),
        element("div", {"class": "heads"}, *(_thumbnail(array[head], name, head) for head in heads)),
        *(_large(array[head], name, head, rows, columns) for head in heads),
        element("div", {"class": "heat-key"}, _key()),
        said,
    )


def _choice(name: str, head: int) -> Html:
    button = {"type": "radio", "name": name, "id": f"{name}-{head}", "aria-label": f"Show head {head} large"}
    return element("input", {**button, "checked": "checked"} if head == 0 else button)


def _rules(name: str, heads: int) -> Html:
    """The style rules that tie each radio button to its label and its picture."""
    ids = [f"{name}-{head}" for head in range(heads)]
    shown = ",".join(f"#{id_}:checked ~ .{id_}" for id_ in ids)
    marked = ",".join(f"#{id_}:checked ~ .heads label[for={id_}]" for id_ in ids)
    focus = ",".join(f"#{id_}:focus-visible ~ .heads label[for={id_}]" for id_ in ids)
    return Html(
        f"{shown}{{display:block}}"
        f"{marked}{{border-color:var(--accent);color:var(--ink);box-shadow:inset 0 0 0 1px var(--accent)}}"
        f"{focus}{{outline:2px solid var(--accent);outline-offset:2px}}"
    )


def _thumbnail(weights: NDArray[np.float64], name: str, head: int) -> Html:
    map_ = element("g", {"id": f"{name}-heat-{head}"}, *shades(strength(weights), "heat"))
    picture = small_map(weights.shape, {"aria-hidden": "true"}, map_)
    return element("label", {"for": f"{name}-{head}"}, element("span", None, f"Head {head}"), picture)


def _key() -> Html:
    """What the colours mean."""
    parts = []
    for index, (weight, shade) in enumerate(zip(_KEY, strength(np.array(_KEY)), strict=True)):
        place = {"x": 56 * index, "y": 1, "width": 14, "height": 14}
        parts.append(element("rect", {"class": "heat", "fill-opacity": f"{shade:.2f}", **place}))
        parts.append(element("text", {"x": 56 * index + 19, "y": 8, "dy": ".32em"}, f"{weight:g}"))
    size: dict[str, str | float] = {"viewBox": f"0 0 {56 * len(_KEY)} 16", "width": 56 * len(_KEY)}
    return element("svg", {**size, "role": "img", "aria-label": "Stronger colour is more weight"}, *parts)


def _large(weights: NDArray[np.float64], name: str, head: int, rows: Sequence[str], columns: Sequence[str]) -> Html:
    height, width = weights.shape
    cell = min(_LARGEST, max(_SMALLEST, _WIDEST / width))
    font = min(13.0, 0.82 * cell)
    left, top = (max(_MARGIN, 0.62 * font * max(map(len, names)) + 14) for names in (rows, columns))
    place = {"transform": f"translate({left:.1f} {top:.1f}) scale({cell:.2f})"}
    box = (left + width * cell + 2, top + height * cell + 2)
    words = f"Head {head}: rows are queries, columns are keys. {_head_in_words(weights, rows, columns)}"
    picture = element(
        "svg",
        {"viewBox": f"0 0 {box[0]:.0f} {box[1]:.0f}", "width": f"{box[0]:.0f}", "role": "img", "aria-label": words},
        element("use", {"href": f"#{name}-heat-{head}", **place}),
        frame(weights.shape, {**place}),
        element("text", {"x": _px(left - 6), "y": _px(top - 26), "text-anchor": "end"}, "key →"),
        element("text", {"x": _px(left - 6), "y": _px(top - 10), "text-anchor": "end"}, "query ↓"),
        element("g", {"class": "token", "style": f"font-size:{font:.1f}px"}, *_labels(rows, columns, left, top, cell)),
        *(
            _strip(_row_in_words(row, weights[index], columns), left, top + index * cell, width * cell, cell)
            for index, row in enumerate(rows)
        ),
    )
    caption = f"Head {head}. Rows are queries, columns are keys; point at a row to read its largest weights."
    shown = element("div", {"class": "scroll"}, picture)
    return element("div", {"class": f"large {name}-{head}"}, figure(shown, caption))


def _labels(rows: Sequence[str], columns: Sequence[str], left: float, top: float, cell: float) -> list[Html]:
    """Query tokens beside the map, key tokens above it, reading upwards."""
    labels = []
    for index, token in enumerate(rows):
        place = {"x": _px(left - 6), "y": _px(top + (index + 0.5) * cell), "text-anchor": "end"}
        labels.append(element("text", {**place, "dy": ".32em"}, token))
    for index, token in enumerate(columns):
        turn = f"translate({left + (index + 0.5) * cell:.1f} {top - 6:.1f}) rotate(-90)"
        labels.append(element("text", {"transform": turn, "dy": ".32em"}, token))
    return labels


def _strip(words: str, left: float, top: float, width: float, height: float) -> Html:
    """An unseen rectangle over a row that gives its strongest keys to the pointer."""
    place = {"x": _px(left), "y": _px(top), "width": _px(width), "height": _px(height)}
    return element("g", {"class": "row"}, element("title", None, words), element("rect", place))


def _row_in_words(query: str, weights: NDArray[np.float64], keys: Sequence[str]) -> str:
    return f"{query} looks at " + ", ".join(f"{key} {percent(weight)}" for key, weight in named_most(weights, keys))


def _head_in_words(weights: NDArray[np.float64], queries: Sequence[str], keys: Sequence[str]) -> str:
    return join(f"{q} looks most at {keys[int(row.argmax())]}. " for q, row in zip(queries, weights, strict=True))


def _px(value: float) -> str:
    return f"{value:.1f}"
