"""Gemma (Google, 2024): LLaMA with a scaled embedding, wide heads, 1 + weight in norms, and a feed-forward of GELUs."""

from dataclasses import dataclass, replace
from functools import partial

from langwright.models.families.llama import LLAMA, LlamaConfig
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.models.rope import reach
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import GLU
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.stack import Block, Embedding, Residual, Stack

GELU = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class GemmaConfig(LlamaConfig):
    """The honoured fields of LLaMA, and those that Gemma 2 adds.

    query_pre_attn_scalar: scores are divided by its root; None means the width of a head.
    """

    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} = {value!r} is not above 0")


def build(config: GemmaConfig, family: str, sandwich: bool) -> Model:
    """The blocks of LLaMA with Gemma's norm. sandwich: a norm after each branch as well, before it is added."""
    c = config

    def norm() -> Norm:
        return Norm(c.hidden_size, "rms", c.rms_norm_eps, plus_one=True)

    def block(layer: int) -> Block:
        attention = Attention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            bias="qkvo" if c.attention_bias else "",
            scale=None if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar**-0.5,
            softcap=c.attn_logit_softcapping,
            dropout=c.attention_dropout,
        )
        glu = GLU(c.hidden_size, c.intermediate_size, "gelu_tanh")
        first, second = (Residual(fn, norm(), norm() if sandwich else None) for fn in (attention, glu))
        return Block(first, second, Bias(causal=True, window=c.window(layer)))

    embed = Embedding(c.vocab_size, c.hidden_size, scale=c.hidden_size**0.5, round_scale=True)
    body = Stack(embed, [block(i) for i in range(c.num_hidden_layers)], norm(), c.rope())
    tied = embed.tokens if c.tie_word_embeddings else None
    head = LanguageHead(c.vocab_size, c.hidden_size, tied, c.final_logit_softcapping)
    return Model(body, {"head": head}, family=family, config=c, context=reach(c.rope(), c.max_position_embeddings))


def read(raw: Fields) -> Fields:
    """As LLaMA's; the first files say `gelu` and mean the tanh form."""
    fields = LLAMA.read(raw)
    for name in ("hidden_act", "hidden_activation"):
        if fields.get(name) in (None, "gelu"):
            fields.pop(name, None)
    return fields


def write(fields: Fields) -> Fields:
    """As LLaMA's, with the activation under both names."""
    return {**LLAMA.write(fields), "hidden_act": GELU, "hidden_activation": GELU}


GEMMA = replace(
    LLAMA,
    name="gemma",
    architecture="GemmaForCausalLM",
    config=GemmaConfig,
    build=partial(build, family="gemma", sandwich=False),
    heads={},
    absent=(
        "hidden_act",
        "mlp_bias",
        "sliding_window",
        "layer_types",
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    ),
    defaults={
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    default_only={"hidden_act": GELU, "hidden_activation": GELU, "use_bidirectional_attention": False},
    read=read,
    write=write,
    adapters=replace(LLAMA.adapters, ia3=("q_proj", "v_proj")),
    presets={},
)
