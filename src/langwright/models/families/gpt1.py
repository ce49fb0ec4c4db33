"""GPT (Radford et al., 2018): norms after each branch, and none at the end."""

from dataclasses import dataclass
from typing import Annotated

from langwright.base.value_types import one_of
from langwright.models.config import Config, Rate, ShapeFields, Size
from langwright.models.families.gpt2 import LINEAR
from langwright.models.family import SUMMARY, AdapterTargets, Family
from langwright.models.keymap import Entry, layers, names
from langwright.models.model import Model, language_model, stack
from langwright.parts import MLP, Attention, Embedding, Norm

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
"""What this family calls gelu is the tanh approximation."""


@dataclass(frozen=True)
class GPT1Config(Config):
    """The honoured fields, under their names in config.json."""

    vocab_size: Size = 40478
    n_positions: Size = 512
    n_embd: Size = 768
    n_layer: Size = 12
    n_head: Size = 12
    afn: Annotated[str, one_of(ACTIVATIONS)] = "gelu"
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02

    shape = ShapeFields("n_embd", "n_layer", "n_head", "n_positions")


def build(config: GPT1Config) -> Model:
    """Post-norm blocks with LayerNorm, learned positions, biases everywhere, and a tied head."""
    c = config
    body = stack(
        Embedding(c.vocab_size, c.n_embd, c.n_positions, c.embd_pdrop),
        c.n_layer,
        norm=lambda: Norm(c.n_embd, "layer", c.layer_norm_epsilon, bias=True),
        norms="post",
        attention=lambda layer: Attention(c.n_embd, c.n_head, bias="qkvo", dropout=c.attn_pdrop),
        feedforward=lambda layer: MLP(c.n_embd, 4 * c.n_embd, ACTIVATIONS[c.afn], bias=True),
        dropout=c.resid_pdrop,
    )
    return language_model(body, c)


def keys(config: GPT1Config) -> list[Entry]:
    """GPT-2's names, but for the embeddings."""
    norms = names({"ln_1": "attention.out_norm", "ln_2": "feedforward.out_norm"})
    embeddings = {"tokens_embed.weight": "body.embed.tokens", "positions_embed.weight": "body.embed.positions"}
    return [
        *names({f"transformer.{disk}": ours for disk, ours in embeddings.items()}),
        *layers("transformer.h", names(LINEAR, transposed=True) + norms),
    ]


GPT1 = Family(
    name="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    config=GPT1Config,
    builder=build,
    keys=keys,
    inert=("n_ctx", "n_special", "predict_special_tokens", *SUMMARY),
    default_only={"tie_word_embeddings": True},
    ignored_keys=(".attn.bias", ".position_ids"),
    prefix="transformer.",
    adapters=AdapterTargets(("c_attn",), ia3=("c_attn",), ia3_inputs=("mlp.c_proj",)),
    presets={"gpt1": {}},
)
