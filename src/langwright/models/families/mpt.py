"""MPT (MosaicML, 2023): ALiBi, no biases at all, and q, k and v that may be cut."""

from dataclasses import dataclass

from langwright.models.config import Config, Count, Rate, ShapeFields, Size, Spread
from langwright.models.family import AdapterTargets, Family, Fields
from langwright.models.gguf.layout import Layout
from langwright.models.keymap import QKV, Entry, Table, layers, names
from langwright.models.model import Model, language_model, stack
from langwright.models.task_heads import causal_heads
from langwright.parts import MLP, Alibi, Attention, Bias, Embedding, Norm

NESTED = ("clip_qkv", "softmax_scale")
"""Honoured fields that lie in `attn_config`."""


@dataclass(frozen=True)
class MptConfig(Config):
    """The honoured fields, under their names in config.json and, for two of them, in its `attn_config`."""

    vocab_size: Size = 50368
    d_model: Size = 2048
    n_layers: Count = 24
    n_heads: Size = 16
    max_seq_len: Size = 2048
    resid_pdrop: Rate = 0.0
    emb_pdrop: Rate = 0.0
    clip_qkv: float | None = None
    softmax_scale: float | None = None
    layer_norm_epsilon: Rate = 1e-5
    initializer_range: Spread = 0.02

    shape = ShapeFields("d_model", "n_layers", "n_heads", "max_seq_len")


def build(config: MptConfig) -> Model:
    """Pre-norm blocks with LayerNorm, ALiBi and a tied head; nothing has a bias."""
    c = config
    body = stack(
        Embedding(c.vocab_size, c.d_model, dropout=c.emb_pdrop),
        c.n_layers,
        norm=lambda: Norm(c.d_model, "layer", c.layer_norm_epsilon),
        attention=lambda layer: Attention(c.d_model, c.n_heads, scale=c.softmax_scale, clip=c.clip_qkv),
        feedforward=lambda layer: MLP(c.d_model, 4 * c.d_model, "gelu"),
        bias=lambda layer: Bias(causal=True, term=Alibi(c.n_heads)),
        dropout=c.resid_pdrop,
    )
    return language_model(body, c)


def keys(config: MptConfig) -> list[Entry]:
    """q, k, v are fused in Wqkv, one after the other."""
    layer: Table = {
        "norm_1": "attention.in_norm",
        "attn.Wqkv": QKV,
        "attn.out_proj": "attention.fn.output",
        "norm_2": "feedforward.in_norm",
        "ffn.up_proj": "feedforward.fn.input",
        "ffn.down_proj": "feedforward.fn.output",
    }
    return [
        *names({"transformer.wte.weight": "body.embed.tokens", "transformer.norm_f": "body.final_norm"}),
        *layers("transformer.blocks", names(layer)),
    ]


def read(raw: Fields) -> Fields:
    """`attn_config` spread out; what it says beyond the honoured fields is judged as if it stood outside."""
    fields = dict(raw)
    return {**(fields.pop("attn_config", None) or {}), **fields}


def write(fields: Fields) -> Fields:
    """The fields of `attn_config` gathered again."""
    outside = {name: value for name, value in fields.items() if name not in NESTED}
    return {**outside, "attn_config": {name: fields[name] for name in NESTED}}


MPT = Family(
    name="mpt",
    architecture="MptForCausalLM",
    heads=causal_heads("Mpt", output="classifier"),
    config=MptConfig,
    builder=build,
    keys=keys,
    inert=("attn_impl", "embedding_fraction", "init_config", "init_device", "norm_type", "tokenizer_name", "verbose"),
    default_only={
        "alibi": True, "alibi_bias_max": 8, "attn_pdrop": 0, "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False, "expansion_ratio": 4, "learned_pos_emb": True, "logit_scale": None,
        "no_bias": True, "prefix_lm": False, "qk_ln": False, "tie_word_embeddings": True,
    },
    prefix="transformer.",
    read=read,
    write=write,
    gguf=Layout(
        "mpt",
        fields={"attention.layer_norm_epsilon": "layer_norm_epsilon", "attention.clamp_kqv": "clip_qkv"},
        only={"softmax_scale": (None,)},
        constants={"attention.max_alibi_bias": 8.0},
    ),
    adapters=AdapterTargets(("Wqkv",), ia3=("Wqkv",), ia3_inputs=("down_proj",)),
    presets={
        "mpt-7b": {"d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432},
        "mpt-30b": {"d_model": 7168, "n_layers": 48, "n_heads": 64, "vocab_size": 50432, "max_seq_len": 8192},
    },
)  # fmt: skip
