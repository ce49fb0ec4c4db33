"""BLOOM (BigScience, 2022): ALiBi instead of positions, and a norm of the embedding."""

from dataclasses import dataclass

from langwright.models.config import Config, Count, Rate, ShapeFields, Size, Spread
from langwright.models.family import AdapterTargets, Family, Fields
from langwright.models.gguf.layout import Layout
from langwright.models.keymap import QKV, Entry, layers, names, within
from langwright.models.model import Model, language_model, stack
from langwright.models.task_heads import causal_heads
from langwright.parts import MLP, Alibi, Attention, Bias, Embedding, Norm


@dataclass(frozen=True)
class BloomConfig(Config):
    """The honoured fields, under their names in config.json.

    seq_length: what it was trained on; positions have no end.
    """

    vocab_size: Size = 250880
    hidden_size: Size = 64
    n_layer: Count = 2
    n_head: Size = 8
    seq_length: Size = 2048
    hidden_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    layer_norm_epsilon: Rate = 1e-5
    initializer_range: Spread = 0.02

    shape = ShapeFields(layers="n_layer", heads="n_head", context="seq_length")


def build(config: BloomConfig) -> Model:
    """Pre-norm blocks with LayerNorm, ALiBi, biases everywhere, and a tied head."""
    c = config

    def norm() -> Norm:
        return Norm(c.hidden_size, "layer", c.layer_norm_epsilon, bias=True)

    body = stack(
        Embedding(c.vocab_size, c.hidden_size, norm=norm()),
        c.n_layer,
        norm=norm,
        attention=lambda layer: Attention(c.hidden_size, c.n_head, bias="qkvo", dropout=c.attention_dropout),
        feedforward=lambda layer: MLP(c.hidden_size, 4 * c.hidden_size, "gelu_tanh", bias=True),
        bias=lambda layer: Bias(causal=True, term=Alibi(c.n_head)),
        dropout=c.hidden_dropout,
    )
    return language_model(body, c)


def keys(config: BloomConfig) -> list[Entry]:
    """q, k, v are fused in query_key_value, in turns head by head."""
    layer = {
        "self_attention.dense": "attention.fn.output",
        "mlp.dense_h_to_4h": "feedforward.fn.input",
        "mlp.dense_4h_to_h": "feedforward.fn.output",
        "input_layernorm": "attention.in_norm",
        "post_attention_layernorm": "feedforward.in_norm",
    }
    fused = names({"self_attention.query_key_value": QKV}, heads=config.n_head)
    embedding = {"word_embeddings.weight": "tokens", "word_embeddings_layernorm": "norm"}
    return [
        *within("transformer", "body.embed", names(embedding)),
        *layers("transformer.h", fused + names(layer)),
        *names({"transformer.ln_f": "body.final_norm"}),
    ]


def read(raw: Fields) -> Fields:
    """Names of the files on the Hub."""
    hub = {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    return {hub.get(name, name): value for name, value in raw.items()}


BLOOM = Family(
    name="bloom",
    architecture="BloomForCausalLM",
    heads=causal_heads("Bloom", output="classifier", dropout=lambda c: c.hidden_dropout),
    config=BloomConfig,
    builder=build,
    keys=keys,
    inert=(
        "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "pretraining_tp",
        "skip_bias_add", "skip_bias_add_qkv", "slow_but_exact",
    ),
    default_only={"apply_residual_connection_post_layernorm": False, "n_inner": None, "tie_word_embeddings": True},
    prefix="transformer.",
    read=read,
    gguf=Layout("bloom", fields={"attention.layer_norm_epsilon": "layer_norm_epsilon"}),
    adapters=AdapterTargets(
        ("query_key_value",), ia3=("query_key_value",), ia3_inputs=("mlp.dense_4h_to_h",),
        norms=("input_layernorm", "post_attention_layernorm", "ln_f"),
    ),
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
