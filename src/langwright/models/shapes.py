"""Named shapes, and the one dial: depth."""

from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from langwright.base.errors import UserError
from langwright.models.families import ENCODER_DECODERS, FAMILIES
from langwright.models.families.llama import FULL
from langwright.models.family import Family, Fields

PRESETS: dict[str, tuple[str, Any]] = {
    name: (row.name, row.config(**{**row.defaults, **shape}))
    for row in FAMILIES.values()
    for name, shape in row.presets.items()
}
"""Shapes as published, with the family and the config of each."""


def preset(name: str, vocabulary: int, context: int | None, dropout: float) -> tuple[str, Any]:
    """The family and config of a named shape. `context` None keeps the published one."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"choose one of {', '.join(PRESETS)}"
        raise UserError(f'preset "{name}" is not known; {hint}')
    family, config = PRESETS[name]
    return family, _fit(FAMILIES[family], config, vocabulary, context, dropout)


DROPOUT = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "emb_pdrop",
    "resid_dropout", "embed_dropout", "attention_dropout", "hidden_dropout",
    "hidden_dropout_prob", "attention_probs_dropout_prob",
)  # fmt: skip


def by_depth(family: str, depth: int, vocabulary: int, context: int, dropout: float, width: int | None = None) -> Any:
    """The config of the one dial: `depth` layers, 64 * depth wide (unless `width` is given), heads of 64.

    The gated feed-forward is 8/3 wide, rounded up to a multiple of 64, so that all families are about equal; the
    experts that a token passes are as wide together, and are balanced as strongly as Mixtral's were. Windows are
    left out, but for GPT-Neo's.
    """
    without = [made.name for made in ENCODER_DECODERS]
    if family not in FAMILIES or family in without:
        state = "is an encoder-decoder, which has no shape here" if family in without else "is not known"
        raise UserError(
            f'family "{family}" {state}; choose one of {", ".join(name for name in FAMILIES if name not in without)}'
        )
    if depth < 1:
        raise UserError(f"--depth {depth}: a model has at least one layer")
    made = FAMILIES[family]
    wide = width or 64 * depth
    heads = wide // 64
    known = {field.name for field in fields(made.config)} - set(made.absent)
    shape = {made.shape.layers: depth, made.shape.heads: heads, made.shape.width: wide}
    gated = -(-8 * wide // 3 // 64) * 64 // getattr(made.config, "num_experts_per_tok", 1)
    usual = {
        "num_key_value_heads": heads,
        "head_dim": 64,
        "intermediate_size": gated if made.shape.gated else 4 * wide,
        **({"layer_types": (FULL,) * depth} if "layer_types" in known else {"sliding_window": None}),
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 64,
        "output_router_logits": True,
        "router_aux_loss_coef": 0.02,
    }
    own = {name: value for name, value in usual.items() if name in known}
    return _fit(made, made.config(**{**made.defaults, **shape, **own}), vocabulary, context, dropout)


def _fit(family: Family, config: Any, vocabulary: int, context: int | None, dropout: float) -> Any:
    """The same shape with this vocabulary, context and dropout."""
    changes: Fields = {field.name: dropout for field in fields(config) if field.name in DROPOUT}
    if context is not None and family.shape.context is not None:
        changes[family.shape.context] = context + getattr(config, "offset", 0)
    return replace(config, **{"vocab_size": vocabulary, **changes})


def width(family: str, config: Any) -> int:
    """The width of the residual stream."""
    return int(getattr(config, FAMILIES[family].shape.width))
