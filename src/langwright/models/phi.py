"""Phi (Gunasekar et al., 2023): both branches read one norm, part of a head is rotated, and all maps have biases."""

from dataclasses import dataclass
from typing import Any

from langwright.models.checks import ACTIVATIONS, check_choice, check_heads
from langwright.models.decoder import CausalLM
from langwright.models.family import Family, check_sizes
from langwright.models.initialise import normal
from langwright.models.keymap import Entry, affine
from langwright.models.partial_rope import FRACTION, partial_rope, reader, writer
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope
from langwright.parts.stack import Embedding, ParallelBlock, Residual, Stack


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
        if self.num_key_value_heads is not None:
            check_heads(self, "num_attention_heads", "num_key_value_heads")
        check_choice(self, "hidden_act")
        self.rope()

    def rope(self) -> Rope:
        """The rotary embedding that `rope_parameters` describe."""
        head_dim = self.hidden_size // self.num_attention_heads
        return partial_rope(self.rope_parameters, head_dim, 0.5, self.max_position_embeddings)


def build(config: PhiConfig) -> CausalLM:
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
    return CausalLM("phi", c, c.max_position_embeddings, body, head)


def keys(config: PhiConfig) -> list[Entry]:
    """Every projection is a tensor of its own; the head has a bias, which a tied one keeps."""
    entries = [Entry("model.embed_tokens.weight", ("body.embed.tokens",))]
    for i in range(config.num_hidden_layers):
        disk, ours = f"model.layers.{i}", f"body.blocks.{i}"
        entries += affine(f"{disk}.input_layernorm", f"{ours}.in_norm")
        for x in "qkv":
            entries += affine(f"{disk}.self_attn.{x}_proj", f"{ours}.attention.fn.{x}")
        entries += affine(f"{disk}.self_attn.dense", f"{ours}.attention.fn.output")
        for x in "qk" if config.qk_layernorm else "":
            entries += affine(f"{disk}.self_attn.{x}_layernorm", f"{ours}.attention.fn.{x}_norm")
        entries += affine(f"{disk}.mlp.fc1", f"{ours}.feedforward.fn.input")
        entries += affine(f"{disk}.mlp.fc2", f"{ours}.feedforward.fn.output")
    entries += [*affine("model.final_layernorm", "body.final_norm"), Entry("lm_head.bias", ("head.bias",))]
    return entries if config.tie_word_embeddings else [*entries, Entry("lm_head.weight", ("head.weight",))]


PHI = Family(
    name="phi",
    architecture="PhiForCausalLM",
    config=PhiConfig,
    build=build,
    keys=keys,
    initialise=lambda model: normal(model, model.config.initializer_range),
    ignored_keys=(".rotary_emb.inv_freq",),
    prefix="model.",
    read=reader(FRACTION, "rope_theta"),
    write=writer(FRACTION, "rope_theta", 0.5),
)
