"""What a tokenizer puts before a text: the ▁ of SentencePiece, or a byte-level one's space."""

from collections.abc import Mapping
from typing import Any

Layout = Mapping[str, Any]
"""Of a `tokenizer.json`, or of a part of it."""


def without_prefix_space(layout: Layout) -> dict[str, Any]:
    """The tokenizer that puts nothing before a text, and is the same otherwise.

    Left is what a tokenizer puts before every word, having cut the blanks between them away (T5).
    """
    normalizer, pre_tokenizer = _without_prepend(layout["normalizer"]), _without_prefix(layout["pre_tokenizer"])
    return {**layout, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}


def _without_prepend(step: Layout | None) -> Layout | None:
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] != "Sequence":
        return step
    left = [one for one in map(_without_prepend, step["normalizers"]) if one is not None]
    return {**step, "normalizers": left}


def _without_prefix(step: Layout | None) -> Layout | None:
    if step is None:
        return None
    match step:
        case {"type": "Metaspace"}:
            return {**step, "prepend_scheme": "never"}
        case {"type": "ByteLevel"}:
            return {**step, "add_prefix_space": False}
        case {"type": "Sequence", "pretokenizers": [first, *rest]}:  # those after the first work on words
            return {**step, "pretokenizers": [_without_prefix(first), *rest]}
    return step
