"""GPT (Radford et al., 2018): norms after each branch, and none at the end."""

from dataclasses import dataclass

from langwright.models.checks import check_choice, check_heads, check_sizes
from langwright.models.families.gpt2 import MAPS
from langwright.models.family import SUMMARY, AdapterTargets, Family, ShapeFields
from langwright.models.keymap import Entry, affines, numbered
from langwright.models.model import Model
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.stack import Block, Embedding, Residual, Stack

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
"""What this family calls gelu is the tanh approximation."""


@dataclass(frozen=True)
class GPT1Config:
    """The honoured fields, under their names in config.json."""

    vocab_size: int = 40478
    n_positions: int = 512
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    afn: str = "gelu"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        check_sizes(self, ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"))
        check_heads(self, "n_embd", "n_head")
        check_choice(self, "afn", ACTIVATIONS)


def build(config: GPT1Config) -> Model:
    """Post-norm blocks with LayerNorm, learned positions, biases everywhere, and a tied head."""
    c = config

    def norm() -> Norm:
        return Norm(c.n_embd, "layer", c.layer_norm_epsilon, bias=True)

    def block() -> Block:
        attention = Attention(c.n_embd, c.n_head, bias="qkvo", dropout=c.attn_pdrop)
        mlp = MLP(c.n_embd, 4 * c.n_embd, ACTIVATIONS[c.afn], bias=True)
        first, second = (Residual(fn, out_norm=norm(), dropout=c.resid_pdrop) for fn in (attention, mlp))
        return Block(first, second, Bias(causal=True))

    embed = Embedding(c.vocab_size, c.n_embd, c.n_positions, c.embd_pdrop)
    body = Stack(embed, [block() for _ in range(c.n_layer)], None)
    head = LanguageHead(c.vocab_size, c.n_embd, tied=embed.tokens)
    return Model(body, {"head": head}, family="openai-gpt", config=c, context=c.n_positions)


def keys(config: GPT1Config) -> list[Entry]:
    """GPT-2's names, but for the embeddings."""
    norms = {"ln_1": "attention.out_norm", "ln_2": "feedforward.out_norm"}
    return [
        Entry("transformer.tokens_embed.weight", ("body.embed.tokens",)),
        Entry("transformer.positions_embed.weight", ("body.embed.positions",)),
        *numbered(config.n_layer, "transformer.h", affines(MAPS, transposed=True) + affines(norms)),
    ]


GPT1 = Family(
    name="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    config=GPT1Config,
    build=build,
    keys=keys,
    inert=("n_ctx", "n_special", "predict_special_tokens", *SUMMARY),
    default_only={"tie_word_embeddings": True},
    ignored_keys=(".attn.bias", ".position_ids"),
    prefix="transformer.",
    adapters=AdapterTargets(lora=("c_attn",), ia3=("c_attn",), ia3_inputs=("mlp.c_proj",)),
    shape=ShapeFields("n_embd", "n_layer", "n_head", "n_positions"),
    presets={"gpt1": {}},
)
