"""Heat maps as SVG: a unit square a cell, one path for each step of colour."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langwright.viewing.page import Html, element

LEVELS = 20
"""Steps of colour."""


def strength(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strong the colour of an attention weight is: its square root, so that a few percent can be seen."""
    return np.sqrt(np.minimum(weights, 1))


def shades(strengths: NDArray[np.float64], kind: str) -> list[Html]:
    """A path for each step of colour.

    Args:
        strengths: from 0 (blank) to 1, [rows, columns].
        kind: the class of the paths in the style sheet.
    """
    levels = np.rint(strengths * LEVELS).astype(int)
    return [
        element("path", {"class": kind, "fill-opacity": level / LEVELS, "d": cells(levels == level)})
        for level in range(1, LEVELS + 1)
        if (levels == level).any()
    ]


def cells(chosen: NDArray[np.bool_]) -> str:
    """A path over the chosen cells; neighbours in a row are one rectangle, so that long texts stay small."""
    edges = np.diff(np.pad(chosen.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return "".join(
        f"M{begin} {row}h{end - begin}v1h-{end - begin}z"
        for (row, begin), (_, end) in zip(begins.tolist(), ends.tolist(), strict=True)
    )


def small_map(shape: tuple[int, ...], attributes: dict[str, str | float], *content: Html) -> Html:
    """A framed picture of [rows, columns] cells: square ones, unless it were more than twice as long as broad."""
    height, width = shape
    ratio = min(max(width / height, 0.5), 2.0)
    size = {"viewBox": f"0 0 {width} {height}", "preserveAspectRatio": "none", "style": f"aspect-ratio:{ratio:.3g}"}
    return element("svg", {**size, **attributes}, *content, frame(shape))


def frame(shape: tuple[int, ...], attributes: dict[str, str | float] | None = None) -> Html:
    """The border of such a picture."""
    return element("rect", {"class": "frame", "width": shape[1], "height": shape[0], **(attributes or {})})


def named_most(weights: NDArray[np.float64], names: Sequence[str], count: int = 3) -> list[tuple[str, float]]:
    """The names of the largest weights above zero, largest first."""
    best = [int(i) for i in np.argsort(-weights, kind="stable")[:count] if weights[i] > 0]
    return [(names[i], float(weights[i])) for i in best]
