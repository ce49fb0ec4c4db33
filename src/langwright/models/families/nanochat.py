"""NanoChat (Karpathy, 2025): squared ReLU, norms without weights, q and k normed after rotation, capped logits."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from langwright.models.checks import check_heads, check_sizes
from langwright.models.family import AdapterTargets, Family, ShapeFields
from langwright.models.keymap import Entry, affines, numbered, projections, untied_head
from langwright.models.model import Model
from langwright.models.rope import WHOLE, reach
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope
from langwright.parts.stack import Block, Embedding, Residual, Stack


@dataclass(frozen=True)
class NanoChatConfig:
    """The honoured fields, under their names in config.json."""

    vocab_size: int = 50304
    hidden_size: int = 768
    intermediate_size: int = 8192
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    attention_dropout: float = 0.0
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] | None = None
    final_logit_softcapping: float | None = 15.0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        check_sizes(self, sizes, ("num_key_value_heads",))
        check_heads(self, "hidden_size", "num_attention_heads")
        check_heads(self, "num_attention_heads", "num_key_value_heads")
        self.rope()

    def rope(self) -> Rope:
        """The rotary embedding that `rope_parameters` describe."""
        head_dim = self.hidden_size // self.num_attention_heads
        return replace(WHOLE.rope(self.rope_parameters, head_dim, self.max_position_embeddings), backwards=True)


def build(config: NanoChatConfig) -> Model:
    """Pre-norm blocks, and one more norm after the embedding."""
    c = config

    def norm(dim: int = c.hidden_size) -> Norm:
        return Norm(dim, "rms", c.rms_norm_eps, weight=False)

    def block() -> Block:
        attention = Attention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            qk_norm=norm,
            qk_norm_after_rope=True,
            dropout=c.attention_dropout,
        )
        mlp = MLP(c.hidden_size, c.intermediate_size, "relu2")
        return Block(Residual(attention, norm()), Residual(mlp, norm()), Bias(causal=True))

    embed = Embedding(c.vocab_size, c.hidden_size, norm=norm())
    body = Stack(embed, [block() for _ in range(c.num_hidden_layers)], norm(), c.rope())
    head = LanguageHead(c.vocab_size, c.hidden_size, softcap=c.final_logit_softcapping)
    return Model(body, {"head": head}, family="nanochat", config=c, context=reach(c.rope(), c.max_position_embeddings))


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
    layer = [
        *projections("self_attn.{}_proj", "attention.fn"),
        *affines({"mlp.fc1": "feedforward.fn.input", "mlp.fc2": "feedforward.fn.output"}, bias=False),
    ]
    return [
        Entry("model.embed_tokens.weight", ("body.embed.tokens",)),
        *numbered(config.num_hidden_layers, "model.layers", layer),
        *untied_head(tied=False),
    ]


NANOCHAT = Family(
    name="nanochat",
    architecture="NanoChatForCausalLM",
    config=NanoChatConfig,
    build=build,
    keys=keys,
    initialise=initialise,
    inert=("initializer_range",),
    default_only={"hidden_act": "relu2", "attention_bias": False, "tie_word_embeddings": False},
    prefix="model.",
    read=WHOLE.read,
    write=WHOLE.write,
    adapters=AdapterTargets(ia3=("k_proj", "v_proj"), ia3_inputs=("fc2",)),
    shape=ShapeFields(gated=False),
)
