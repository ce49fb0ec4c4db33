"""LLaMA (Touvron et al., 2023): RMSNorm, RoPE, grouped queries, a gated feed-forward. Many families follow it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from langwright.base.value_types import one_of
from langwright.models.config import Count, Fields, Rate, Size, Spread
from langwright.models.family import AdapterTargets, Family
from langwright.models.gguf.layout import Layout
from langwright.models.keymap import Entry, layers, names, projections, within
from langwright.models.model import Model, language_model, stack
from langwright.models.rope import WHOLE, RotaryConfig
from langwright.models.task_heads import causal_heads
from langwright.parts import GLU, Attention, Bias, Embedding, Norm

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class LlamaConfig(RotaryConfig):
    """The honoured fields, under their names in config.json.

    layer_types: which layers see a window of `sliding_window` positions, and which see everything.
    """

    vocab_size: Size = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: Annotated[str, one_of(("silu", "gelu", "relu"))] = "silu"
    rms_norm_eps: Rate = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: Rate = 0.0
    initializer_range: Spread = 0.02
    tie_word_embeddings: bool = False
    sliding_window: Size | None = None
    layer_types: tuple[Annotated[str, one_of((SLIDING, FULL))], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = self.layer_types
        if kinds is not None and len(kinds) != self.num_hidden_layers:
            raise ValueError(f"layer_types must name {SLIDING} or {FULL} for each of {self.num_hidden_layers} layers")
        if self.sliding_window is None and SLIDING in (kinds or ()):
            raise ValueError("layer_types names a sliding layer and sliding_window is not set")

    @property
    def heads(self) -> tuple[int, int | None, int | None]:
        """Of queries, of keys and values, and how wide they are."""
        return self.num_attention_heads, self.num_key_value_heads, self.head_dim

    def window(self, layer: int) -> int | None:
        """How many positions a layer sees; None for all."""
        sliding = self.layer_types is None or self.layer_types[layer] == SLIDING
        return self.sliding_window if sliding else None


def gated(config: LlamaConfig) -> nn.Module:
    """The feed-forward of a layer."""
    return GLU(config.hidden_size, config.intermediate_size, config.hidden_act, config.mlp_bias)


def build(
    config: LlamaConfig, bias: str = "", qk_norm: bool = False, feedforward: Callable[[Any], nn.Module] = gated
) -> Model:
    """Pre-norm blocks with RMSNorm, RoPE, grouped-query attention and a gated feed-forward.

    bias: projections that carry one beyond what `attention_bias` asks for. qk_norm: Qwen3's norm of each head.
    feedforward: makes that of a layer.
    """
    c = config
    biases = "qkvo" if c.attention_bias else bias

    def norm(dim: int = c.hidden_size) -> Norm:
        return Norm(dim, "rms", c.rms_norm_eps)

    body = stack(
        Embedding(c.vocab_size, c.hidden_size),
        c.num_hidden_layers,
        norm=norm,
        attention=lambda layer: Attention(
            c.hidden_size, *c.heads, bias=biases, qk_norm=norm if qk_norm else None, dropout=c.attention_dropout
        ),
        feedforward=lambda layer: feedforward(c),
        bias=lambda layer: Bias(causal=True, window=c.window(layer)),
        rope=c.rope(),
    )
    return language_model(body, c, c.tie_word_embeddings)


GATED = within("mlp", "feedforward.fn", names({"gate_proj": "gate", "up_proj": "input", "down_proj": "output"}))
NORMS = {"input_layernorm": "attention.in_norm", "post_attention_layernorm": "feedforward.in_norm"}
OF_HEADS = {"self_attn.q_norm": "attention.fn.q_norm", "self_attn.k_norm": "attention.fn.k_norm"}
"""Names of a layer's feed-forward and norms on disk -> ours."""


def keys(config: LlamaConfig, feedforward: list[Entry] = GATED, norms: dict[str, str] = NORMS) -> list[Entry]:
    """Every projection is a tensor of its own, as ours are. feedforward, norms: where they have other names."""
    return [
        *names({"model.embed_tokens.weight": "body.embed.tokens", "model.norm": "body.final_norm", "lm_head": "head"}),
        *layers("model.layers", projections("self_attn.{}_proj") + feedforward + names(norms | OF_HEADS)),
    ]


def sizes(layers: int, width: int, heads: int, kv_heads: int, hidden: int, **rest: Any) -> Fields:
    """A published shape."""
    return {
        "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": hidden, **rest,
    }  # fmt: skip


SECOND: Fields = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
THIRD: Fields = {
    "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "vocab_size": 128256,
    "rope_parameters": {"rope_theta": 500_000.0},
}  # fmt: skip
"""What the second and the third LLaMA have in all sizes."""

GGUF_FIELDS = {
    "feed_forward_length": "intermediate_size",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
"""Keys of llama.cpp's files -> fields of the config."""

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    config=LlamaConfig,
    builder=build,
    keys=keys,
    heads=causal_heads("Llama", span_prefix="transformer."),
    absent=("sliding_window", "layer_types"),
    default_only={"pretraining_tp": 1},
    ignored_keys=(".rotary_emb.inv_freq",),
    prefix="model.",
    read=WHOLE.read,
    write=WHOLE.write,
    gguf=Layout(
        "llama",
        fields=GGUF_FIELDS,
        only={"hidden_act": ("silu",)},
        marks={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
        pairs=True,
    ),
    adapters=AdapterTargets(
        ia3=("k_proj", "v_proj"),
        ia3_inputs=("down_proj",),
        norms=("input_layernorm", "post_attention_layernorm", "norm"),
    ),
    presets={
        "llama-7b": sizes(32, 4096, 32, 32, 11008),
        "llama-13b": sizes(40, 5120, 40, 40, 13824),
        "llama-33b": sizes(60, 6656, 52, 52, 17920),
        "llama-65b": sizes(80, 8192, 64, 64, 22016, rms_norm_eps=1e-5),
        "tinyllama-1.1b": sizes(22, 2048, 32, 4, 5632, rms_norm_eps=1e-5),
        "llama-2-7b": sizes(32, 4096, 32, 32, 11008, **SECOND),
        "llama-2-13b": sizes(40, 5120, 40, 40, 13824, **SECOND),
        "llama-2-70b": sizes(80, 8192, 64, 8, 28672, **SECOND),
        "llama-3-8b": sizes(32, 4096, 32, 8, 14336, **THIRD),
        "llama-3-70b": sizes(80, 8192, 64, 8, 28672, **THIRD),
    },
)
