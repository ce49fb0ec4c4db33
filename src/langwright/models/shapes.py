"""Named shapes, and the one dial: depth."""

from dataclasses import replace
from typing import Any

from langwright.base.errors import UserError, suggest
from langwright.models.config import Config, Fields, field_types
from langwright.models.families import FAMILIES
from langwright.models.families.llama import FULL

PRESETS: dict[str, tuple[str, Any]] = {
    name: (row.name, row.make(**shape)) for row in FAMILIES.values() for name, shape in row.presets.items()
}
"""Shapes as published, with the family and the config of each."""
DROPOUT = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "emb_pdrop",
    "resid_dropout", "embed_dropout", "attention_dropout", "hidden_dropout",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate", "dropout", "embedding_dropout",
)  # fmt: skip


def preset(name: str, vocabulary: int, context: int | None, dropout: float) -> tuple[str, Any]:
    """The family and config of a named shape. `context` None keeps the published one."""
    if name not in PRESETS:
        hint = suggest(name, PRESETS) or f"; choose one of {', '.join(PRESETS)}"
        raise UserError(f'preset "{name}" is not known{hint}')
    family, config = PRESETS[name]
    return family, _fit(config, vocabulary, context, dropout)


def by_depth(family: str, depth: int, vocabulary: int, context: int, dropout: float, width: int | None = None) -> Any:
    """The config of the one dial: `depth` layers, 64 * depth wide (unless `width` is given), heads of 64.

    The gated feed-forward is 8/3 wide, rounded up to a multiple of 64, so that all families are about equal; the
    experts that a token passes are as wide together, and are balanced as strongly as Mixtral's were. Windows are
    left out, but for GPT-Neo's. An encoder-decoder has `depth` layers on each side.
    """
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f'family "{family}" is not known; choose one of {known}{suggest(family, FAMILIES)}')
    if depth < 1:
        raise UserError(f"--depth {depth}: a model has at least one layer")
    row = FAMILIES[family]
    wide = width or 64 * depth
    heads = wide // 64
    fields, shape = row.honoured(), row.config.shape
    gated = -(-8 * wide // 3 // 64) * 64 // getattr(row.config, "num_experts_per_tok", 1)
    usual = {
        "num_key_value_heads": heads,
        "head_dim": 64,
        "intermediate_size": gated if shape.gated else 4 * wide,
        "d_kv": 64,
        **dict.fromkeys(("d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 4 * wide),
        **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), depth),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), heads),
        **({"layer_types": (FULL,) * depth} if "layer_types" in fields else {"sliding_window": None}),
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 64,
        "output_router_logits": True,
        "router_aux_loss_coef": 0.02,
    }
    own = {name: value for name, value in usual.items() if name in fields}
    own |= dict(row.fresh) | ({} if shape.heads is None else {shape.heads: heads})
    config = row.make(**own | {shape.layers: depth, shape.width: wide})
    return _fit(config, vocabulary, context, dropout)


def with_tokens(family: str, config: Config, eos: int | None, pad: int | None) -> Any:
    """The same config with the ids of a tokenizer, wherever a config of the family names its own eos or padding."""
    usual = FAMILIES[family].make()
    of = {getattr(usual, "eos_token_id", None): eos, getattr(usual, "pad_token_id", None): pad}
    names = ("decoder_start_token_id", "forced_eos_token_id", "eos_token_id", "pad_token_id")
    fields = [name for name in names if getattr(usual, name, None) is not None]
    ids = {name: of[getattr(usual, name)] for name in fields}
    made: Any = replace(config, **ids)  # type: ignore[type-var]
    room = 0 if made.context is None else config.context - made.context  # RoBERTa counts positions from its padding
    return replace(made, **{made.shape.context: config.context + made.offset}) if room else made


def _fit(config: Config, vocabulary: int, context: int | None, dropout: float) -> Any:
    """The same shape with this vocabulary, context and dropout."""
    changes: Fields = {name: dropout for name in field_types(type(config)) if name in DROPOUT}
    if context is not None and config.shape.context is not None:
        changes[config.shape.context] = context + getattr(config, "offset", 0)
    return replace(config, vocab_size=vocabulary, **changes)  # type: ignore[type-var]
