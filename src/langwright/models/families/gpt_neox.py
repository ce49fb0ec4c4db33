"""GPT-NeoX and Pythia (Black et al., 2022; Biderman et al., 2023): parallel branches, a quarter of a head rotated."""

from dataclasses import dataclass
from typing import Any

from langwright.models.checks import ACTIVATIONS, check_choice, check_heads, check_sizes
from langwright.models.family import AdapterTargets, Family, ShapeFields
from langwright.models.keymap import QKV, Entry, affine, affines, numbered, untied_head
from langwright.models.model import Model
from langwright.models.rope import RopeFields, reach
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope
from langwright.parts.stack import Block, Embedding, ParallelBlock, Residual, Stack

ROPE = RopeFields(theta="rotary_emb_base", fraction="rotary_pct", usual=0.25)


@dataclass(frozen=True)
class GPTNeoXConfig:
    """The honoured fields, under their names in config.json. `rope_parameters` stands for the older spellings too."""

    vocab_size: int = 50432
    hidden_size: int = 6144
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    intermediate_size: int = 24576
    hidden_act: str = "gelu"
    max_position_embeddings: int = 2048
    use_parallel_residual: bool = True
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = True
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        check_sizes(self, (*sizes, "max_position_embeddings"))
        check_heads(self, "hidden_size", "num_attention_heads")
        check_choice(self, "hidden_act")
        self.rope()

    def rope(self) -> Rope:
        """The rotary embedding that `rope_parameters` describe."""
        head_dim = self.hidden_size // self.num_attention_heads
        return ROPE.rope(self.rope_parameters, head_dim, self.max_position_embeddings)


def build(config: GPTNeoXConfig) -> Model:
    """Two branches, each with a LayerNorm of its own, side by side or one after the other."""
    c = config

    def norm() -> Norm:
        return Norm(c.hidden_size, "layer", c.layer_norm_eps, bias=True)

    def block() -> Block | ParallelBlock:
        biases = "qkvo" if c.attention_bias else ""
        attention = Attention(c.hidden_size, c.num_attention_heads, bias=biases, dropout=c.attention_dropout)
        mlp = MLP(c.hidden_size, c.intermediate_size, ACTIVATIONS[c.hidden_act], bias=True)
        first, second = (Residual(fn, in_norm=norm(), dropout=c.hidden_dropout) for fn in (attention, mlp))
        return (ParallelBlock if c.use_parallel_residual else Block)(first, second, Bias(causal=True))

    embed = Embedding(c.vocab_size, c.hidden_size, dropout=c.hidden_dropout)
    body = Stack(embed, [block() for _ in range(c.num_hidden_layers)], norm(), c.rope())
    head = LanguageHead(c.vocab_size, c.hidden_size, embed.tokens if c.tie_word_embeddings else None)
    return Model(body, {"head": head}, family="gpt_neox", config=c, context=reach(c.rope(), c.max_position_embeddings))


def keys(config: GPTNeoXConfig) -> list[Entry]:
    """q, k, v are fused in query_key_value, in turns head by head."""
    bias = config.attention_bias
    layer = [
        *affine("attention.query_key_value", *QKV, bias=bias, heads=config.num_attention_heads),
        *affine("attention.dense", "attention.fn.output", bias=bias),
        *affines({"mlp.dense_h_to_4h": "feedforward.fn.input", "mlp.dense_4h_to_h": "feedforward.fn.output"}),
        *affines({"input_layernorm": "attention.in_norm", "post_attention_layernorm": "feedforward.in_norm"}),
    ]
    return [
        Entry("gpt_neox.embed_in.weight", ("body.embed.tokens",)),
        *numbered(config.num_hidden_layers, "gpt_neox.layers", layer),
        *affine("gpt_neox.final_layer_norm", "body.final_norm"),
        *untied_head(config.tie_word_embeddings, "embed_out.weight"),
    ]


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    config=GPTNeoXConfig,
    build=build,
    keys=keys,
    inert=("classifier_dropout",),
    ignored_keys=(".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"),
    prefix="gpt_neox.",
    read=ROPE.read,
    write=ROPE.write,
    adapters=AdapterTargets(lora=("query_key_value",), ia3=("query_key_value",), ia3_inputs=("dense_4h_to_h",)),
    tied_head="embed_out",
    shape=ShapeFields(gated=False),
)
