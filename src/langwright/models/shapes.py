"""Named shapes, and the one dial: depth."""

from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from langwright.base.errors import UserError
from langwright.models.families import ENCODER_DECODERS, FAMILIES
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.llama import FULL, LlamaConfig


def _gpt(layers: int, heads: int, width: int, context: int) -> tuple[str, GPT2Config]:
    return "gpt2", GPT2Config(n_layer=layers, n_head=heads, n_embd=width, n_positions=context)


def _llama(
    family: str, layers: int, width: int, heads: int, kv_heads: int, hidden: int, **rest: Any
) -> tuple[str, LlamaConfig]:
    return family, LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=hidden,
        **rest,
    )


PRESETS: dict[str, tuple[str, Any]] = {
    "gpt2": _gpt(12, 12, 768, 1024),
    "gpt2-medium": _gpt(24, 16, 1024, 1024),
    "gpt2-large": _gpt(36, 20, 1280, 1024),
    "gpt2-xl": _gpt(48, 25, 1600, 1024),
    "gpt3-small": _gpt(12, 12, 768, 2048),
    "gpt3-medium": _gpt(24, 16, 1024, 2048),
    "gpt3-large": _gpt(24, 16, 1536, 2048),
    "gpt3-xl": _gpt(24, 16, 2048, 2048),
    "gpt3-2.7b": _gpt(32, 32, 2560, 2048),
    "gpt3-6.7b": _gpt(32, 32, 4096, 2048),
    "tinyllama-1.1b": _llama("llama", 22, 2048, 32, 4, 5632, rms_norm_eps=1e-5),
    "llama-2-7b": _llama("llama", 32, 4096, 32, 32, 11008, rms_norm_eps=1e-5, max_position_embeddings=4096),
    "mistral-7b": _llama(
        "mistral", 32, 4096, 32, 8, 14336, rms_norm_eps=1e-5, max_position_embeddings=32768, sliding_window=4096,
    ),
    "qwen2-0.5b": _llama(
        "qwen2", 24, 896, 14, 2, 4864, max_position_embeddings=32768, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 1e6},
    ),
    "qwen3-0.6b": _llama(
        "qwen3", 28, 1024, 16, 8, 3072, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 1e6},
    ),
}  # fmt: skip
"""Shapes as published; the vocabulary comes from the tokenizer. every layer of GPT-3's is dense here."""


def preset(name: str, vocabulary: int, context: int | None, dropout: float) -> tuple[str, Any]:
    """The family and config of a named shape. `context` None keeps the published one."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"choose one of {', '.join(PRESETS)}"
        raise UserError(f'preset "{name}" is not known; {hint}')
    family, config = PRESETS[name]
    return family, _fit(config, vocabulary, context, dropout)


ROLES = {
    "context": ("n_positions", "max_position_embeddings", "max_seq_len", "seq_length"),
    "layers": ("n_layer", "num_hidden_layers", "num_layers", "n_layers"),
    "heads": ("n_head", "num_attention_heads", "num_heads", "n_heads"),
    "width": ("n_embd", "hidden_size", "d_model"),
}
"""What a shape is made of, under the names that families give it."""
DROPOUT = (
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "emb_pdrop",
    "resid_dropout", "embed_dropout", "attention_dropout", "hidden_dropout",
    "hidden_dropout_prob", "attention_probs_dropout_prob",
)  # fmt: skip
PLAIN = ("nanochat", "gpt_neo", "gpt_neox", "phi", "bert", "roberta")
"""Families with an `intermediate_size` whose feed-forward is not gated."""


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
    shape = {_field(made.config, "layers"): depth, _field(made.config, "heads"): heads}
    shape[_field(made.config, "width")] = wide
    gated = -(-8 * wide // 3 // 64) * 64 // getattr(made.config, "num_experts_per_tok", 1)
    usual = {
        "num_key_value_heads": heads,
        "head_dim": 64,
        "intermediate_size": 4 * wide if family in PLAIN else gated,
        **({"layer_types": (FULL,) * depth} if "layer_types" in known else {"sliding_window": None}),
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 64,
        "output_router_logits": True,
        "router_aux_loss_coef": 0.02,
    }
    own = {name: value for name, value in usual.items() if name in known}
    return _fit(made.config(**{**made.defaults, **shape, **own}), vocabulary, context, dropout)


def _fit(config: Any, vocabulary: int, context: int | None, dropout: float) -> Any:
    """The same shape with this vocabulary, context and dropout."""
    changes = {field.name: dropout for field in fields(config) if field.name in DROPOUT}
    name = _field(config, "context")
    longest = getattr(config, name) if context is None else context + getattr(config, "offset", 0)
    return replace(config, **{"vocab_size": vocabulary, name: longest, **changes})


def width(config: Any) -> int:
    """The width of the residual stream."""
    return int(getattr(config, _field(config, "width")))


def _field(config: Any, role: str) -> str:
    """The field of a family's config that plays this role."""
    (name,) = {field.name for field in fields(config)} & set(ROLES[role])
    return name
