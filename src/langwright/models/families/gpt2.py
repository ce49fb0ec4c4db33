"""GPT-2 (Radford et al., 2019) and the shapes of GPT-3 (Brown et al., 2020)."""

from dataclasses import dataclass
from typing import Literal

from langwright.models.config import ACTIVATIONS, Activation, Config, Count, Rate, ShapeFields, Size, Spread
from langwright.models.family import SUMMARY, AdapterTargets, Family, Fields
from langwright.models.gguf.layout import GELU, Layout
from langwright.models.initialise import normal
from langwright.models.keymap import QKV, Entry, Table, layers, names
from langwright.models.model import Model, language_model, stack
from langwright.models.task_heads import causal_heads
from langwright.parts import MLP, Attention, Embedding, Norm


@dataclass(frozen=True)
class GPT2Config(Config):
    """The honoured fields, under their names in config.json. `n_inner` None means 4 * n_embd."""

    vocab_size: Size = 50257
    n_positions: Size = 1024
    n_embd: Size = 768
    n_layer: Count = 12
    n_head: Size = 12
    n_inner: Size | None = None
    activation_function: Activation = "gelu_new"
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: Rate = 1e-5
    initializer_range: Spread = 0.02

    shape = ShapeFields("n_embd", "n_layer", "n_head", "n_positions")


def build(config: GPT2Config, activation: str | None = None, norms: Literal["pre", "post"] = "pre") -> Model:
    """Blocks with LayerNorm, learned positions, biases everywhere, and a tied head.

    activation: that of `parts` in place of the config's. norms: see `stack`.
    """
    c = config
    inner, activation = c.n_inner or 4 * c.n_embd, activation or ACTIVATIONS[c.activation_function]
    body = stack(
        Embedding(c.vocab_size, c.n_embd, c.n_positions, c.embd_pdrop),
        c.n_layer,
        norm=lambda: Norm(c.n_embd, "layer", c.layer_norm_epsilon, bias=True),
        norms=norms,
        attention=lambda layer: Attention(c.n_embd, c.n_head, bias="qkvo", dropout=c.attn_pdrop),
        feedforward=lambda layer: MLP(c.n_embd, inner, activation, bias=True),
        dropout=c.resid_pdrop,
    )
    return language_model(body, c)


LINEAR: Table = {
    "attn.c_attn": QKV,
    "attn.c_proj": "attention.fn.output",
    "mlp.c_fc": "feedforward.fn.input",
    "mlp.c_proj": "feedforward.fn.output",
}
"""The linear layers of a layer on disk, where q, k, v are fused and all are transposed -> ours."""


def keys(config: GPT2Config) -> list[Entry]:
    """Linear layers are stored transposed, embeddings are not."""
    norms = names({"ln_1": "attention.in_norm", "ln_2": "feedforward.in_norm"})
    return [
        *names({"transformer.wte.weight": "body.embed.tokens", "transformer.wpe.weight": "body.embed.positions"}),
        *layers("transformer.h", names(LINEAR, transposed=True) + norms),
        *names({"transformer.ln_f": "body.final_norm"}),
    ]


def sizes(layers: int, heads: int, width: int, context: int = 1024) -> Fields:
    """A published shape. Every layer of GPT-3's is dense here."""
    return {"n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": context}


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    config=GPT2Config,
    builder=build,
    keys=keys,
    initialise=lambda model: normal(model, model.config.initializer_range, (2 * model.config.n_layer) ** -0.5),
    heads=causal_heads("GPT2", output="classifier"),
    inert=("_num_labels", "n_ctx", "n_special", "output_past", "predict_special_tokens", *SUMMARY),
    default_only={
        "reorder_and_upcast_attn": False, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
        "tie_word_embeddings": True,
    },
    ignored_keys=(".attn.bias", ".attn.masked_bias"),
    prefix="transformer.",
    gguf=Layout(
        "gpt2",
        fields={"feed_forward_length": "n_inner", "attention.layer_norm_epsilon": "layer_norm_epsilon"},
        only={"activation_function": GELU},
    ),
    adapters=AdapterTargets(("c_attn",), ia3=("c_attn",), ia3_inputs=("mlp.c_proj",), norms=("ln_1", "ln_2", "ln_f")),
    presets={
        "gpt2": sizes(12, 12, 768),
        "gpt2-medium": sizes(24, 16, 1024),
        "gpt2-large": sizes(36, 20, 1280),
        "gpt2-xl": sizes(48, 25, 1600),
        "gpt3-small": sizes(12, 12, 768, 2048),
        "gpt3-medium": sizes(24, 16, 1024, 2048),
        "gpt3-large": sizes(24, 16, 1536, 2048),
        "gpt3-xl": sizes(24, 16, 2048, 2048),
        "gpt3-2.7b": sizes(32, 32, 2560, 2048),
        "gpt3-6.7b": sizes(32, 32, 4096, 2048),
        "gpt3-13b": sizes(40, 40, 5120, 2048),
        "gpt3-175b": sizes(96, 96, 12288, 2048),
    },
)  # fmt: skip
