"""Phi (Gunasekar et al., 2023): both branches read one norm, part of a head is rotated, and all layers have biases."""

from dataclasses import dataclass

from langwright.models.config import ACTIVATIONS, Activation, Count, Rate, ShapeFields, Size, Spread
from langwright.models.family import AdapterTargets, Family
from langwright.models.gguf.layout import GELU, Layout
from langwright.models.keymap import Entry, layers, names
from langwright.models.model import Model, language_model, stack
from langwright.models.rope import RopeFields, RotaryConfig
from langwright.models.task_heads import causal_heads
from langwright.parts import MLP, Attention, Embedding, Norm

ROPE = RopeFields(usual=0.5)


@dataclass(frozen=True)
class PhiConfig(RotaryConfig):
    """The honoured fields, under their names in config.json."""

    vocab_size: Size = 51200
    hidden_size: Size = 2048
    intermediate_size: Size = 8192
    num_hidden_layers: Count = 24
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    hidden_act: Activation = "gelu_new"
    qk_layernorm: bool = False
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    attention_dropout: Rate = 0.0
    layer_norm_eps: Rate = 1e-5
    initializer_range: Spread = 0.02
    tie_word_embeddings: bool = False

    shape = ShapeFields(gated=False)
    spelling = ROPE


def build(config: PhiConfig) -> Model:
    """Parallel blocks with LayerNorm, RoPE in half of each head, grouped-query attention, and a head with a bias."""
    c = config
    heads = c.num_attention_heads, c.num_key_value_heads

    def norm(dim: int = c.hidden_size) -> Norm:
        return Norm(dim, "layer", c.layer_norm_eps, bias=True)

    body = stack(
        Embedding(c.vocab_size, c.hidden_size, dropout=c.embd_pdrop),
        c.num_hidden_layers,
        norm=norm,
        norms="shared",
        attention=lambda layer: Attention(
            c.hidden_size, *heads, bias="qkvo", qk_norm=norm if c.qk_layernorm else None, dropout=c.attention_dropout
        ),
        feedforward=lambda layer: MLP(c.hidden_size, c.intermediate_size, ACTIVATIONS[c.hidden_act], bias=True),
        parallel=True,
        dropout=c.resid_pdrop,
        rope=c.rope(),
    )
    return language_model(body, c, c.tie_word_embeddings, bias=True)


def keys(config: PhiConfig) -> list[Entry]:
    """Every projection is a tensor of its own; the head has a bias, which a tied one keeps."""
    layer = {
        "input_layernorm": "in_norm",
        "self_attn.q_proj": "attention.fn.q",
        "self_attn.k_proj": "attention.fn.k",
        "self_attn.v_proj": "attention.fn.v",
        "self_attn.dense": "attention.fn.output",
        "self_attn.q_layernorm": "attention.fn.q_norm",
        "self_attn.k_layernorm": "attention.fn.k_norm",
        "mlp.fc1": "feedforward.fn.input",
        "mlp.fc2": "feedforward.fn.output",
    }
    return [
        *names({"model.embed_tokens.weight": "body.embed.tokens", "model.final_layernorm": "body.final_norm"}),
        *layers("model.layers", names(layer)),
        *names({"lm_head": "head"}),
    ]


PHI = Family(
    name="phi",
    architecture="PhiForCausalLM",
    heads=causal_heads("Phi", without=("span",)),
    config=PhiConfig,
    builder=build,
    keys=keys,
    ignored_keys=(".rotary_emb.inv_freq",),
    prefix="model.",
    read=ROPE.read,
    write=ROPE.write,
    gguf=Layout(
        "phi2",
        fields={
            "feed_forward_length": "intermediate_size", "attention.layer_norm_epsilon": "layer_norm_eps",
            "attention.head_count_kv": "num_key_value_heads",
        },
        only={"hidden_act": GELU, "qk_layernorm": (False,)},
        own_head=True,
    ),
    adapters=AdapterTargets(
        lora=("q_proj", "v_proj", "fc1", "fc2"), ia3=("q_proj", "v_proj"), ia3_inputs=("fc2",),
        norms=("input_layernorm", "final_layernorm"),
    ),
)  # fmt: skip
