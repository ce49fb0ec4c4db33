"""LLaMA (Touvron et al., 2023): RMSNorm, RoPE, grouped queries, a gated feed-forward. Many families follow it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from langwright.models.checks import check_choice, check_heads, check_layers, check_sizes
from langwright.models.family import AdapterTargets, Family, Fields
from langwright.models.keymap import Entry, Table, affine, affines, numbered, projections, untied_head
from langwright.models.model import Model
from langwright.models.rope import WHOLE, reach
from langwright.models.task_heads import last_token_head
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import GLU
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope
from langwright.parts.stack import Block, Embedding, Residual, Stack

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class LlamaConfig:
    """The honoured fields, under their names in config.json.

    rope_parameters: also from the fields of older files; see `RopeFields`.
    layer_types: which layers see a window of `sliding_window` positions, and which see everything.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        check_sizes(self, sizes, ("num_key_value_heads", "head_dim", "sliding_window"))
        check_heads(self, "num_attention_heads", "num_key_value_heads")
        if self.head_dim is None:
            check_heads(self, "hidden_size", "num_attention_heads")
        check_choice(self, "hidden_act", ("silu", "gelu", "relu"))
        check_layers("layer_types", self.layer_types, (SLIDING, FULL), self.num_hidden_layers)
        if self.sliding_window is None and SLIDING in (self.layer_types or ()):
            raise ValueError("layer_types names a sliding layer and sliding_window is not set")
        self.rope()

    def rope(self) -> Rope:
        """The rotary embedding that `rope_parameters` describe."""
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        return WHOLE.rope(self.rope_parameters, head_dim, self.max_position_embeddings)

    def window(self, layer: int) -> int | None:
        """How many positions a layer sees; None for all."""
        sliding = self.layer_types is None or self.layer_types[layer] == SLIDING
        return self.sliding_window if sliding else None


def build(
    config: LlamaConfig,
    family: str,
    bias: str = "",
    qk_norm: bool = False,
    feedforward: Callable[[Any], nn.Module] | None = None,
) -> Model:
    """Pre-norm blocks with RMSNorm, RoPE, grouped-query attention and a gated feed-forward.

    bias: projections that carry one beyond what `attention_bias` asks for. qk_norm: Qwen3's norm of each head.
    feedforward: makes another one than the gated one.
    """
    c = config

    def norm(dim: int = c.hidden_size) -> Norm:
        return Norm(dim, "rms", c.rms_norm_eps)

    def block(layer: int) -> Block:
        attention = Attention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            bias="qkvo" if c.attention_bias else bias,
            qk_norm=norm if qk_norm else None,
            dropout=c.attention_dropout,
        )
        glu = feedforward(c) if feedforward else GLU(c.hidden_size, c.intermediate_size, c.hidden_act, c.mlp_bias)
        first, second = (Residual(fn, norm()) for fn in (attention, glu))
        return Block(first, second, Bias(causal=True, window=c.window(layer)))

    embed = Embedding(c.vocab_size, c.hidden_size)
    body = Stack(embed, [block(i) for i in range(c.num_hidden_layers)], norm(), c.rope())
    tied = embed.tokens if c.tie_word_embeddings else None
    head = LanguageHead(c.vocab_size, c.hidden_size, tied)
    return Model(body, {"head": head}, family=family, config=c, context=reach(c.rope(), c.max_position_embeddings))


NORMS = {"input_layernorm": "attention.in_norm", "post_attention_layernorm": "feedforward.in_norm"}
"""Names of a layer's norms on disk -> ours."""


def keys(
    config: LlamaConfig, bias: str = "", feedforward: list[Entry] | None = None, norms: Table = NORMS
) -> list[Entry]:
    """Every projection is a tensor of its own, as ours are.

    bias: as for `build`. feedforward, norms: of a layer, where they are others than LLaMA's.
    """
    gated = {
        "mlp.gate_proj": "feedforward.fn.gate",
        "mlp.up_proj": "feedforward.fn.input",
        "mlp.down_proj": "feedforward.fn.output",
    }
    layer = [
        *projections("self_attn.{}_proj", "attention.fn", "qkvo" if config.attention_bias else bias),
        *(affines(gated, bias=config.mlp_bias) if feedforward is None else feedforward),
        *affines(norms, bias=False),
    ]
    return [
        Entry("model.embed_tokens.weight", ("body.embed.tokens",)),
        *numbered(config.num_hidden_layers, "model.layers", layer),
        *affine("model.norm", "body.final_norm", bias=False),
        *untied_head(config.tie_word_embeddings),
    ]


def sizes(layers: int, width: int, heads: int, kv_heads: int, hidden: int, **rest: Any) -> Fields:
    """A published shape."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": hidden,
        **rest,
    }


SECOND: Fields = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
THIRD: Fields = {
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "vocab_size": 128256,
    "rope_parameters": {"rope_theta": 500_000.0},
}
"""What the second and the third LLaMA have in all sizes."""

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    config=LlamaConfig,
    build=partial(build, family="llama"),
    keys=keys,
    heads={"sequence": last_token_head("LlamaForSequenceClassification")},
    absent=("sliding_window", "layer_types"),
    default_only={"pretraining_tp": 1},
    ignored_keys=(".rotary_emb.inv_freq",),
    prefix="model.",
    read=WHOLE.read,
    write=WHOLE.write,
    adapters=AdapterTargets(
        lora=("q_proj", "v_proj"),
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
