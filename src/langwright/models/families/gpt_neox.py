"""GPT-NeoX and Pythia (Black et al., 2022; Biderman et al., 2023): parallel branches, a quarter of a head rotated."""

from dataclasses import dataclass

from langwright.models.config import ACTIVATIONS, Activation, Count, Rate, ShapeFields, Size, Spread
from langwright.models.family import AdapterTargets, Family
from langwright.models.gguf.layout import GELU, Layout
from langwright.models.keymap import QKV, Entry, layers, names
from langwright.models.model import Model, language_model, stack
from langwright.models.rope import RopeFields, RotaryConfig
from langwright.models.task_heads import causal_heads
from langwright.parts import MLP, Attention, Embedding, Norm

ROPE = RopeFields(theta="rotary_emb_base", fraction="rotary_pct", usual=0.25)


@dataclass(frozen=True)
class GPTNeoXConfig(RotaryConfig):
    """The honoured fields, under their names in config.json."""

    vocab_size: Size = 50432
    hidden_size: Size = 6144
    num_hidden_layers: Count = 44
    num_attention_heads: Size = 64
    intermediate_size: Size = 24576
    hidden_act: Activation = "gelu"
    use_parallel_residual: bool = True
    attention_bias: bool = True
    attention_dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    classifier_dropout: Rate = 0.1
    layer_norm_eps: Rate = 1e-5
    initializer_range: Spread = 0.02
    tie_word_embeddings: bool = False

    shape = ShapeFields(gated=False)
    spelling = ROPE


def build(config: GPTNeoXConfig) -> Model:
    """Two branches, each with a LayerNorm of its own, side by side or one after the other."""
    c = config
    biases, activation = "qkvo" if c.attention_bias else "", ACTIVATIONS[c.hidden_act]
    body = stack(
        Embedding(c.vocab_size, c.hidden_size, dropout=c.hidden_dropout),
        c.num_hidden_layers,
        norm=lambda: Norm(c.hidden_size, "layer", c.layer_norm_eps, bias=True),
        attention=lambda layer: Attention(
            c.hidden_size, c.num_attention_heads, bias=biases, dropout=c.attention_dropout
        ),
        feedforward=lambda layer: MLP(c.hidden_size, c.intermediate_size, activation, bias=True),
        parallel=c.use_parallel_residual,
        dropout=c.hidden_dropout,
        rope=c.rope(),
    )
    return language_model(body, c, c.tie_word_embeddings)


def keys(config: GPTNeoXConfig) -> list[Entry]:
    """q, k, v are fused in query_key_value, in turns head by head."""
    layer = {
        "attention.dense": "attention.fn.output",
        "mlp.dense_h_to_4h": "feedforward.fn.input",
        "mlp.dense_4h_to_h": "feedforward.fn.output",
        "input_layernorm": "attention.in_norm",
        "post_attention_layernorm": "feedforward.in_norm",
    }
    fused = names({"attention.query_key_value": QKV}, heads=config.num_attention_heads)
    return [
        *names({"gpt_neox.embed_in.weight": "body.embed.tokens", "gpt_neox.final_layer_norm": "body.final_norm"}),
        *layers("gpt_neox.layers", fused + names(layer)),
        *names({"embed_out": "head"}),
    ]


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    heads=causal_heads("GPTNeoX", output="classifier", dropout=lambda c: c.classifier_dropout),
    config=GPTNeoXConfig,
    builder=build,
    keys=keys,
    ignored_keys=(".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"),
    prefix="gpt_neox.",
    read=ROPE.read,
    write=ROPE.write,
    gguf=Layout(
        "gptneox",
        fields={
            "feed_forward_length": "intermediate_size",
            "attention.layer_norm_epsilon": "layer_norm_eps",
            "use_parallel_residual": "use_parallel_residual",
        },
        only={"hidden_act": GELU, "attention_bias": (True,)},
        own_head=True,
    ),
    adapters=AdapterTargets(("query_key_value",), ia3=("query_key_value",), ia3_inputs=("dense_4h_to_h",)),
    tied_head="embed_out",
    renamed={"lm_head.weight": "embed_out.weight"},  # as `transformers` calls it in memory
)
