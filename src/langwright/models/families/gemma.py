"""Gemma (Google, 2024): LLaMA with a scaled embedding, wide heads, 1 + weight in norms, and a feed-forward of GELUs."""

from dataclasses import dataclass, replace

from langwright.models.config import Fields, Positive
from langwright.models.families.llama import GGUF_FIELDS, LLAMA, LlamaConfig
from langwright.models.gguf.layout import TIED, Layout
from langwright.models.model import Model, language_model, stack
from langwright.models.task_heads import causal_heads
from langwright.parts import GLU, Attention, Bias, Embedding, Norm

GELU = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class GemmaConfig(LlamaConfig):
    """The honoured fields of LLaMA, and those that Gemma 2 adds.

    query_pre_attn_scalar: scores are divided by its root; None means the width of a head.
    """

    query_pre_attn_scalar: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None


def build(config: GemmaConfig, sandwich: bool = False) -> Model:
    """The blocks of LLaMA with Gemma's norm. sandwich: a norm after each branch as well, before it is added."""
    c = config
    scale = None if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar**-0.5
    biases, softcap, drop = "qkvo" if c.attention_bias else "", c.attn_logit_softcapping, c.attention_dropout
    body = stack(
        Embedding(c.vocab_size, c.hidden_size, scale=c.hidden_size**0.5, round_scale=True),
        c.num_hidden_layers,
        norm=lambda: Norm(c.hidden_size, "rms", c.rms_norm_eps, plus_one=True),
        norms="sandwich" if sandwich else "pre",
        attention=lambda layer: Attention(
            c.hidden_size, *c.heads, bias=biases, scale=scale, softcap=softcap, dropout=drop
        ),
        feedforward=lambda layer: GLU(c.hidden_size, c.intermediate_size, "gelu_tanh"),
        bias=lambda layer: Bias(causal=True, window=c.window(layer)),
        rope=c.rope(),
    )
    return language_model(body, c, c.tie_word_embeddings, softcap=c.final_logit_softcapping)


def read(raw: Fields) -> Fields:
    """As LLaMA's; the first files say `gelu` and mean the tanh form."""
    unsaid = {name for name in ("hidden_act", "hidden_activation") if raw.get(name) in (None, "gelu")}
    return {name: value for name, value in LLAMA.read(raw).items() if name not in unsaid}


def write(fields: Fields) -> Fields:
    """As LLaMA's, with the activation under both names."""
    return {**LLAMA.write(fields), "hidden_act": GELU, "hidden_activation": GELU}


GEMMA = replace(
    LLAMA,
    name="gemma",
    architecture="GemmaForCausalLM",
    config=GemmaConfig,
    builder=build,
    heads=causal_heads("Gemma", without=("span",)),
    absent=(
        "hidden_act", "mlp_bias", "sliding_window", "layer_types", "query_pre_attn_scalar", "attn_logit_softcapping",
        "final_logit_softcapping",
    ),
    defaults={
        "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    default_only={"hidden_act": GELU, "hidden_activation": GELU, "use_bidirectional_attention": False},
    read=read,
    write=write,
    gguf=Layout(
        "gemma",
        fields=GGUF_FIELDS,
        only={"attention_bias": (False,), TIED: (True,)},
        plus_one=True,
    ),
    adapters=replace(LLAMA.adapters, ia3=("q_proj", "v_proj")),
    presets={},
)  # fmt: skip
