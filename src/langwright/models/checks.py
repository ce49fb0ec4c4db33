"""Checks and lists that families share."""

from collections.abc import Collection
from typing import Any

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}
"""Names in config.json -> names in `parts/feedforward.py`."""

SUMMARY = (
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)
"""Fields of a head that language models lack."""


def check_choice(config: Any, field: str, known: Collection[str] = ACTIVATIONS) -> None:
    """ValueError unless the field names one of these, by default an activation."""
    value = getattr(config, field)
    if value not in known:
        raise ValueError(f"{field} = {value!r} is not one of {', '.join(known)}")


def check_heads(config: Any, width: str, heads: str) -> None:
    """ValueError unless the heads divide the width."""
    wide, parts = getattr(config, width), getattr(config, heads)
    if wide % parts:
        raise ValueError(f"{width} = {wide} is not a multiple of {heads} = {parts}")
