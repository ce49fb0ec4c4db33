"""BLOOM (BigScience, 2022): ALiBi instead of positions, and a norm of the embedding."""

from dataclasses import dataclass

from langwright.models.checks import check_heads, check_sizes
from langwright.models.family import AdapterTargets, Family, Fields, ShapeFields
from langwright.models.keymap import QKV, Entry, affine, affines, numbered
from langwright.models.model import Model
from langwright.parts.attention import Attention
from langwright.parts.bias import Alibi, Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.stack import Block, Embedding, Residual, Stack


@dataclass(frozen=True)
class BloomConfig:
    """The honoured fields, under their names in config.json.

    seq_length: what it was trained on; positions have no end.
    """

    vocab_size: int = 250880
    hidden_size: int = 64
    n_layer: int = 2
    n_head: int = 8
    seq_length: int = 2048
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        check_sizes(self, ("vocab_size", "hidden_size", "n_layer", "n_head", "seq_length"))
        check_heads(self, "hidden_size", "n_head")


def build(config: BloomConfig) -> Model:
    """Pre-norm blocks with LayerNorm, ALiBi, biases everywhere, and a tied head."""
    c = config

    def norm() -> Norm:
        return Norm(c.hidden_size, "layer", c.layer_norm_epsilon, bias=True)

    def block() -> Block:
        attention = Attention(c.hidden_size, c.n_head, bias="qkvo", dropout=c.attention_dropout)
        mlp = MLP(c.hidden_size, 4 * c.hidden_size, "gelu_tanh", bias=True)
        first, second = (Residual(fn, in_norm=norm(), dropout=c.hidden_dropout) for fn in (attention, mlp))
        return Block(first, second, Bias(causal=True, term=Alibi(c.n_head)))

    embed = Embedding(c.vocab_size, c.hidden_size, norm=norm())
    body = Stack(embed, [block() for _ in range(c.n_layer)], norm())
    head = LanguageHead(c.vocab_size, c.hidden_size, tied=embed.tokens)
    return Model(body, {"head": head}, family="bloom", config=c, context=c.seq_length)


def keys(config: BloomConfig) -> list[Entry]:
    """q, k, v are fused in query_key_value, in turns head by head."""
    layer = [
        *affine("self_attention.query_key_value", *QKV, heads=config.n_head),
        *affine("self_attention.dense", "attention.fn.output"),
        *affines({"mlp.dense_h_to_4h": "feedforward.fn.input", "mlp.dense_4h_to_h": "feedforward.fn.output"}),
        *affines({"input_layernorm": "attention.in_norm", "post_attention_layernorm": "feedforward.in_norm"}),
    ]
    return [
        Entry("transformer.word_embeddings.weight", ("body.embed.tokens",)),
        *affine("transformer.word_embeddings_layernorm", "body.embed.norm"),
        *numbered(config.n_layer, "transformer.h", layer),
        *affine("transformer.ln_f", "body.final_norm"),
    ]


def read(raw: Fields) -> Fields:
    """Names of the files on the Hub."""
    hub = {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    return {hub.get(name, name): value for name, value in raw.items()}


BLOOM = Family(
    name="bloom",
    architecture="BloomForCausalLM",
    config=BloomConfig,
    build=build,
    keys=keys,
    inert=(
        "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "pretraining_tp",
        "skip_bias_add", "skip_bias_add_qkv", "slow_but_exact",
    ),
    default_only={"apply_residual_connection_post_layernorm": False, "n_inner": None, "tie_word_embeddings": True},
    prefix="transformer.",
    read=read,
    adapters=AdapterTargets(
        lora=("query_key_value",),
        ia3=("query_key_value",),
        ia3_inputs=("mlp.dense_4h_to_h",),
        norms=("input_layernorm", "post_attention_layernorm", "ln_f"),
    ),
    shape=ShapeFields(layers="n_layer", heads="n_head", context="seq_length"),
    presets={
        f"bloom-{name}": {"hidden_size": width, "n_layer": layers, "n_head": heads}
        for name, width, layers, heads in (
            ("560m", 1024, 24, 16),
            ("1.1b", 1536, 24, 16),
            ("1.7b", 2048, 24, 16),
            ("3b", 2560, 30, 32),
            ("7.1b", 4096, 30, 32),
            ("176b", 14336, 70, 112),
        )
    },
)  # fmt: skip
