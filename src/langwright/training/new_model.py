"""The shape that a recipe gives a new model, and what stands around the texts that it reads."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from langwright.base.console import say
from langwright.base.errors import UserError, suggest
from langwright.data.pieces import Framing
from langwright.data.reading import framed, with_special_tokens
from langwright.data.texts import new_tokenizer
from langwright.models.families import FAMILIES
from langwright.models.family import Family
from langwright.models.model import Frame
from langwright.models.shapes import PRESETS, by_depth, preset, with_tokens
from langwright.models.untrained import Untrained
from langwright.text.tokenizer import Tokenizer
from langwright.training.recipe import FinetuneRecipe, NewModelRecipe

CONTEXT = 256
"""Tokens that a new model reads unless something else is said."""

_FIELDS = (
    ("balance", "router_aux_loss_coef", "families with experts, such as mixtral,"),
    ("weight_dropout", "weight_dropout", "recurrent families, such as lstm,"),
)
"""Settings of a recipe that are a field of some configs, and which those are."""


def new_shape(name: str, recipe: NewModelRecipe, vocabulary: int, context: int) -> tuple[str, Any]:
    """The family and config of `new:NAME`, the name of a family or, where there is none of that name, of a preset."""
    if name not in FAMILIES and name not in PRESETS:
        near = suggest(name, [*FAMILIES, *PRESETS]) or f"; families are {', '.join(FAMILIES)}"
        raise UserError(f'"{name}" is neither a family nor a preset{near}')
    return shape(name, recipe, vocabulary, context, is_preset=name not in FAMILIES)


def shape(name: str, recipe: NewModelRecipe, vocabulary: int, context: int, is_preset: bool = False) -> tuple[str, Any]:
    """The family and config of a new model.

    Args:
        name: of a family or a preset; some are both.
        recipe: its size and dropout.
        vocabulary: how many token ids it knows.
        context: tokens that it reads at most.
        is_preset: whether the name is that of a preset.

    Raises:
        UserError: The name is not known, or a setting does not fit.
    """
    family, usual = name, NewModelRecipe()
    if not is_preset:
        config: Any = by_depth(family, recipe.depth, vocabulary, context, recipe.dropout, recipe.width)
    elif (recipe.depth, recipe.width) != (usual.depth, usual.width):
        raise UserError(f"{name}: a preset, by --preset or new:, names a whole shape; leave out --depth and --width")
    else:
        family, config = preset(name, vocabulary, context, recipe.dropout)
    for flag, field, kind in _FIELDS:
        value = getattr(recipe, flag)
        if value is not None and not hasattr(config, field):
            raise UserError(f"--{flag.replace('_', '-')} {value}: means something for {kind} only")
        config = config if value is None else replace(config, **{field: value})
    return family, config


def tokenised(family: str, config: Any, tokenizer: Tokenizer) -> tuple[str, Any]:
    """The same with the ids of a tokenizer."""
    return family, with_tokens(family, config, tokenizer.eos_id, tokenizer.pad_id)


def untrained(name: str, recipe: FinetuneRecipe, texts: Sequence[str]) -> tuple[Untrained, Tokenizer]:
    """A new model that is to learn from labelled texts, and its tokenizer, which is made from them.

    Args:
        name: of a family or a preset.
        recipe: its shape, and the kind of its tokenizer.
        texts: what it is to read.
    """
    context = recipe.context or CONTEXT
    row = FAMILIES[new_shape(name, recipe, recipe.vocabulary, context)[0]]
    kind, content = recipe.tokenizer or ("words" if row.carries else "bpe"), hashlib.sha256(repr(texts).encode())
    made = new_tokenizer(texts, content.hexdigest(), kind, recipe.vocabulary)
    tokenizer = with_special_tokens(made, mask=row.task != "language")
    family, config = tokenised(*new_shape(name, recipe, tokenizer.vocab_size, context), tokenizer)
    if row.task != "language" or row.is_encoder_decoder:
        tokenizer = framed(tokenizer, partial(framing_of, family, config))
    say(f"new:{name}: a tokenizer of {kind} made from {len(texts):,} rows; vocabulary {tokenizer.vocab_size:,}")
    return Untrained(Path(f"new:{name}"), row, config, row.rate), tokenizer


def frame_of(family: Family, config: Any) -> Frame | None:
    """How the texts of an encoder-decoder begin and end; None for a model of one stack."""
    with torch.device("meta"):
        frame: Frame | None = family.build(config).frame
    return frame


def framing_of(family: str, config: Any, tokenizer: Tokenizer) -> Framing:
    """What stands around the texts that a model reads and writes."""
    frame = frame_of(FAMILIES[family], config)
    if frame is None:
        first, last = tokenizer.cls_id, tokenizer.sep_id
        return Framing(() if first is None else (first,), () if last is None else (last,))
    return framing(frame, tokenizer)


def framing(frame: Frame, tokenizer: Tokenizer) -> Framing:
    """What stands around the texts of an encoder-decoder.

    Raises:
        UserError: The tokenizer lacks what the model needs.
    """
    bos = tokenizer.bos_id
    if frame.source_bos and bos is None:
        raise UserError("this model's texts begin with a token for that, and its tokenizer has none")
    return Framing((bos,) if frame.source_bos and bos is not None else (), (end_of(tokenizer),), frame.start)


def end_of(tokenizer: Tokenizer) -> int:
    """The id that ends a text; UserError where there is none."""
    if tokenizer.eos_id is None:
        raise UserError("the tokenizer has no token that ends a text, so that no answer would end")
    return tokenizer.eos_id
