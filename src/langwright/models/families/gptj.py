"""GPT-J (Wang and Komatsuzaki, 2021): both branches read one norm, and neighbours are rotated in part of a head."""

from dataclasses import dataclass

from langwright.models.checks import ACTIVATIONS, check_choice, check_heads, check_sizes
from langwright.models.family import SUMMARY, AdapterTargets, Family, ShapeFields
from langwright.models.keymap import Entry, affine, affines, numbered, projections, untied_head
from langwright.models.model import Model
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope
from langwright.parts.stack import Embedding, ParallelBlock, Residual, Stack


@dataclass(frozen=True)
class GPTJConfig:
    """The honoured fields, under their names in config.json. `n_inner` None means 4 * n_embd."""

    vocab_size: int = 50400
    n_positions: int = 2048
    n_embd: int = 4096
    n_layer: int = 28
    n_head: int = 16
    rotary_dim: int = 64
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    attn_pdrop: float = 0.0
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "rotary_dim")
        check_sizes(self, sizes, ("n_inner",))
        check_heads(self, "n_embd", "n_head")
        check_choice(self, "activation_function")
        if self.rotary_dim % 2 or self.rotary_dim > self.n_embd // self.n_head:
            raise ValueError(f"rotary_dim = {self.rotary_dim} is odd or wider than a head")


def build(config: GPTJConfig) -> Model:
    """Parallel blocks with LayerNorm, RoPE, biases in the feed-forward and the head only."""
    c = config

    def norm() -> Norm:
        return Norm(c.n_embd, "layer", c.layer_norm_epsilon, bias=True)

    def block() -> ParallelBlock:
        attention = Attention(c.n_embd, c.n_head, dropout=c.attn_pdrop)
        mlp = MLP(c.n_embd, c.n_inner or 4 * c.n_embd, ACTIVATIONS[c.activation_function], bias=True)
        first, second = (Residual(fn, dropout=c.resid_pdrop) for fn in (attention, mlp))
        return ParallelBlock(first, second, Bias(causal=True), in_norm=norm())

    embed = Embedding(c.vocab_size, c.n_embd, dropout=c.embd_pdrop)
    rope = Rope(c.rotary_dim, interleaved=True)
    body = Stack(embed, [block() for _ in range(c.n_layer)], norm(), rope)
    head = LanguageHead(c.vocab_size, c.n_embd, embed.tokens if c.tie_word_embeddings else None, bias=True)
    return Model(body, {"head": head}, family="gptj", config=c, context=c.n_positions)


def keys(config: GPTJConfig) -> list[Entry]:
    """Every projection is a tensor of its own; the head has a bias, which a tied one keeps."""
    layer = [
        *affine("ln_1", "in_norm"),
        *projections("attn.{}_proj", "attention.fn", output="out"),
        *affines({"mlp.fc_in": "feedforward.fn.input", "mlp.fc_out": "feedforward.fn.output"}),
    ]
    return [
        Entry("transformer.wte.weight", ("body.embed.tokens",)),
        *numbered(config.n_layer, "transformer.h", layer),
        *affine("transformer.ln_f", "body.final_norm"),
        Entry("lm_head.bias", ("head.bias",)),
        *untied_head(config.tie_word_embeddings),
    ]


GPTJ = Family(
    name="gptj",
    architecture="GPTJForCausalLM",
    config=GPTJConfig,
    build=build,
    keys=keys,
    inert=("n_ctx", "n_special", "predict_special_tokens", *SUMMARY),
    default_only={"rotary": True, "scale_attn_weights": True},
    ignored_keys=(".attn.bias", ".attn.masked_bias"),
    prefix="transformer.",
    adapters=AdapterTargets(ia3=("q_proj", "v_proj"), ia3_inputs=("fc_out",), norms=("ln_1", "ln_f")),
    shape=ShapeFields("n_embd", "n_layer", "n_head", "n_positions"),
)
