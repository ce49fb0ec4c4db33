"""GPT (Radford et al., 2018): norms after each branch, and none at the end."""

from dataclasses import dataclass
from typing import Annotated

from langwright.base.value_types import one_of
from langwright.models.config import Size
from langwright.models.families.gpt2 import LINEAR, GPT2Config
from langwright.models.families.gpt2 import build as build_gpt2
from langwright.models.family import SUMMARY, AdapterTargets, Family
from langwright.models.keymap import Entry, layers, names
from langwright.models.model import Model
from langwright.models.task_heads import causal_heads

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
"""What this family calls gelu is the tanh approximation."""


@dataclass(frozen=True)
class GPT1Config(GPT2Config):
    """The honoured fields of GPT-2, with the activation under another name."""

    vocab_size: Size = 40478
    n_positions: Size = 512
    afn: Annotated[str, one_of(ACTIVATIONS)] = "gelu"


def build(config: GPT1Config) -> Model:
    """The blocks of GPT-2 with norms after each branch."""
    return build_gpt2(config, ACTIVATIONS[config.afn], norms="post")


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
    heads=causal_heads("OpenAIGPT", without=("token", "span")),
    config=GPT1Config,
    builder=build,
    keys=keys,
    absent=("activation_function", "n_inner"),
    inert=("n_ctx", "n_special", "predict_special_tokens", *SUMMARY),
    default_only={"tie_word_embeddings": True},
    ignored_keys=(".attn.bias", ".position_ids"),
    prefix="transformer.",
    adapters=AdapterTargets(("c_attn",), ia3=("c_attn",), ia3_inputs=("mlp.c_proj",)),
    presets={"gpt1": {}},
)
