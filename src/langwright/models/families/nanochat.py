"""NanoChat (Karpathy, 2025): squared ReLU, norms without weights, q and k normed after rotation, capped logits."""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from langwright.models.config import Count, Positive, Rate, ShapeFields, Size
from langwright.models.family import AdapterTargets, Family
from langwright.models.keymap import Entry, layers, names, projections
from langwright.models.model import Model, language_model, stack
from langwright.models.rope import WHOLE, RotaryConfig
from langwright.parts import MLP, Attention, Embedding, Linear, Norm, Rope


@dataclass(frozen=True)
class NanoChatConfig(RotaryConfig):
    """The honoured fields, under their names in config.json."""

    vocab_size: Size = 50304
    hidden_size: Size = 768
    intermediate_size: Size = 8192
    num_hidden_layers: Count = 12
    num_attention_heads: Size = 6
    num_key_value_heads: Size | None = None
    attention_dropout: Rate = 0.0
    rms_norm_eps: Rate = 1e-6
    final_logit_softcapping: Positive | None = 15.0

    shape = ShapeFields(gated=False)

    def rope(self) -> Rope:
        """As `rope_parameters` say, but the other way round."""
        return replace(super().rope(), backwards=True)


def build(config: NanoChatConfig) -> Model:
    """Pre-norm blocks, and one more norm after the embedding."""
    c = config
    heads = c.num_attention_heads, c.num_key_value_heads

    def norm(dim: int = c.hidden_size) -> Norm:
        return Norm(dim, "rms", c.rms_norm_eps, weight=False)

    body = stack(
        Embedding(c.vocab_size, c.hidden_size, norm=norm()),
        c.num_hidden_layers,
        norm=norm,
        attention=lambda layer: Attention(
            c.hidden_size, *heads, qk_norm=norm, qk_norm_after_rope=True, dropout=c.attention_dropout
        ),
        feedforward=lambda layer: MLP(c.hidden_size, c.intermediate_size, "relu2"),
        rope=c.rope(),
    )
    return language_model(body, c, tied=False, softcap=c.final_logit_softcapping)


@torch.no_grad()
def initialise(model: Model) -> None:
    """As nanochat's own code: every branch begins as zero, the first logits are nearly equal."""
    bound = math.sqrt(3 / model.config.hidden_size)
    for module in model.body.modules():
        if isinstance(module, Linear):
            nn.init.uniform_(module.weight, -bound, bound)
    for module in model.body.modules():
        if isinstance(module, Attention | MLP):
            nn.init.zeros_(module.output.weight)
    nn.init.normal_(model.body.embed.tokens)
    nn.init.normal_(model.head.weight, std=0.001)


def keys(config: NanoChatConfig) -> list[Entry]:
    """Every projection is a tensor of its own; norms have none."""
    mlp = names({"mlp.fc1": "feedforward.fn.input", "mlp.fc2": "feedforward.fn.output"})
    return [
        *names({"model.embed_tokens.weight": "body.embed.tokens", "lm_head": "head"}),
        *layers("model.layers", projections("self_attn.{}_proj") + mlp),
    ]


NANOCHAT = Family(
    name="nanochat",
    architecture="NanoChatForCausalLM",
    config=NanoChatConfig,
    builder=build,
    keys=keys,
    initialise=initialise,
    inert=("initializer_range",),
    default_only={"hidden_act": "relu2", "attention_bias": False, "tie_word_embeddings": False},
    prefix="model.",
    read=WHOLE.read,
    write=WHOLE.write,
    adapters=AdapterTargets(ia3=("k_proj", "v_proj"), ia3_inputs=("fc2",)),
)
