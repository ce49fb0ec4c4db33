"""Phi (Gunasekar et al., 2023): both branches read one norm, part of a head is rotated, and all maps have biases."""

from dataclasses import dataclass
from typing import Any

from langwright.models.checks import ACTIVATIONS, check_choice, check_heads, check_sizes
from langwright.models.family import AdapterTargets, Family, ShapeFields
from langwright.models.keymap import Entry, affine, affines, numbered, untied_head
from langwright.models.model import Model
from langwright.models.rope import RopeFields, reach
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope
from langwright.parts.stack import Embedding, ParallelBlock, Residual, Stack

ROPE = RopeFields(usual=0.5)


@dataclass(frozen=True)
class PhiConfig:
    """The honoured fields, under their names in config.json."""

    vocab_size: int = 51200
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_hidden_layers: int = 24
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 2048
    rope_parameters: dict[str, Any] | None = None
    qk_layernorm: bool = False
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        check_sizes(self, (*sizes, "max_position_embeddings"), ("num_key_value_heads",))
        check_heads(self, "hidden_size", "num_attention_heads")
        check_heads(self, "num_attention_heads", "num_key_value_heads")
        check_choice(self, "hidden_act")
        self.rope()

    def rope(self) -> Rope:
        """The rotary embedding that `rope_parameters` describe."""
        head_dim = self.hidden_size // self.num_attention_heads
        return ROPE.rope(self.rope_parameters, head_dim, self.max_position_embeddings)


def build(config: PhiConfig) -> Model:
    """Parallel blocks with LayerNorm, RoPE in half of each head, grouped-query attention, and a head with a bias."""
    c = config

    def norm(dim: int = c.hidden_size) -> Norm:
        return Norm(dim, "layer", c.layer_norm_eps, bias=True)

    def block() -> ParallelBlock:
        attention = Attention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            bias="qkvo",
            qk_norm=norm if c.qk_layernorm else None,
            dropout=c.attention_dropout,
        )
        mlp = MLP(c.hidden_size, c.intermediate_size, ACTIVATIONS[c.hidden_act], bias=True)
        first, second = (Residual(fn, dropout=c.resid_pdrop) for fn in (attention, mlp))
        return ParallelBlock(first, second, Bias(causal=True), in_norm=norm())

    embed = Embedding(c.vocab_size, c.hidden_size, dropout=c.embd_pdrop)
    body = Stack(embed, [block() for _ in range(c.num_hidden_layers)], norm(), c.rope())
    tied = embed.tokens if c.tie_word_embeddings else None
    head = LanguageHead(c.vocab_size, c.hidden_size, tied, bias=True)
    return Model(body, {"head": head}, family="phi", config=c, context=reach(c.rope(), c.max_position_embeddings))


def keys(config: PhiConfig) -> list[Entry]:
    """Every projection is a tensor of its own; the head has a bias, which a tied one keeps."""
    layer = {
        "input_layernorm": "in_norm",
        "self_attn.q_proj": "attention.fn.q",
        "self_attn.k_proj": "attention.fn.k",
        "self_attn.v_proj": "attention.fn.v",
        "self_attn.dense": "attention.fn.output",
        "mlp.fc1": "feedforward.fn.input",
        "mlp.fc2": "feedforward.fn.output",
    }
    norms = {"self_attn.q_layernorm": "attention.fn.q_norm", "self_attn.k_layernorm": "attention.fn.k_norm"}
    return [
        Entry("model.embed_tokens.weight", ("body.embed.tokens",)),
        *numbered(config.num_hidden_layers, "model.layers", affines(layer | norms if config.qk_layernorm else layer)),
        *affine("model.final_layernorm", "body.final_norm"),
        Entry("lm_head.bias", ("head.bias",)),
        *untied_head(config.tie_word_embeddings),
    ]


PHI = Family(
    name="phi",
    architecture="PhiForCausalLM",
    config=PhiConfig,
    build=build,
    keys=keys,
    ignored_keys=(".rotary_emb.inv_freq",),
    prefix="model.",
    read=ROPE.read,
    write=ROPE.write,
    adapters=AdapterTargets(
        lora=("q_proj", "v_proj", "fc1", "fc2"),
        ia3=("q_proj", "v_proj"),
        ia3_inputs=("fc2",),
        norms=("input_layernorm", "final_layernorm"),
    ),
    shape=ShapeFields(gated=False),
)
