"""GPT-J (Wang and Komatsuzaki, 2021): both branches read one norm, and neighbours are rotated in part of a head."""

from dataclasses import dataclass

from langwright.models.config import ACTIVATIONS, Activation, Config, Count, Rate, ShapeFields, Size, Spread
from langwright.models.family import SUMMARY, AdapterTargets, Family
from langwright.models.keymap import Entry, layers, names, projections
from langwright.models.model import Model, language_model, stack
from langwright.models.task_heads import causal_heads
from langwright.parts import MLP, Attention, Embedding, Norm, Rope


@dataclass(frozen=True)
class GPTJConfig(Config):
    """The honoured fields, under their names in config.json. `n_inner` None means 4 * n_embd."""

    vocab_size: Size = 50400
    n_positions: Size = 2048
    n_embd: Size = 4096
    n_layer: Count = 28
    n_head: Size = 16
    rotary_dim: Size = 64
    n_inner: Size | None = None
    activation_function: Activation = "gelu_new"
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    attn_pdrop: Rate = 0.0
    layer_norm_epsilon: Rate = 1e-5
    initializer_range: Spread = 0.02
    tie_word_embeddings: bool = False

    shape = ShapeFields("n_embd", "n_layer", "n_head", "n_positions")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rotary_dim % 2 or self.rotary_dim > self.head_width:
            raise ValueError(f"rotary_dim = {self.rotary_dim} is odd or wider than a head")


def build(config: GPTJConfig) -> Model:
    """Parallel blocks with LayerNorm, RoPE, biases in the feed-forward and the head only."""
    c = config
    inner, activation = c.n_inner or 4 * c.n_embd, ACTIVATIONS[c.activation_function]
    body = stack(
        Embedding(c.vocab_size, c.n_embd, dropout=c.embd_pdrop),
        c.n_layer,
        norm=lambda: Norm(c.n_embd, "layer", c.layer_norm_epsilon, bias=True),
        norms="shared",
        attention=lambda layer: Attention(c.n_embd, c.n_head, dropout=c.attn_pdrop),
        feedforward=lambda layer: MLP(c.n_embd, inner, activation, bias=True),
        parallel=True,
        dropout=c.resid_pdrop,
        rope=Rope(c.rotary_dim, interleaved=True),
    )
    return language_model(body, c, c.tie_word_embeddings, bias=True)


def keys(config: GPTJConfig) -> list[Entry]:
    """Every projection is a tensor of its own; the head has a bias, which a tied one keeps."""
    layer = {"ln_1": "in_norm", "mlp.fc_in": "feedforward.fn.input", "mlp.fc_out": "feedforward.fn.output"}
    return [
        *names({"transformer.wte.weight": "body.embed.tokens", "transformer.ln_f": "body.final_norm"}),
        *layers("transformer.h", names(layer) + projections("attn.{}_proj", output="out")),
        *names({"lm_head": "head"}),
    ]


GPTJ = Family(
    name="gptj",
    architecture="GPTJForCausalLM",
    heads=causal_heads("GPTJ", without=("token",)),
    config=GPTJConfig,
    builder=build,
    keys=keys,
    inert=("n_ctx", "n_special", "predict_special_tokens", *SUMMARY),
    default_only={"rotary": True, "scale_attn_weights": True},
    ignored_keys=(".attn.bias", ".attn.masked_bias"),
    prefix="transformer.",
    adapters=AdapterTargets(ia3=("q_proj", "v_proj"), ia3_inputs=("fc_out",), norms=("ln_1", "ln_f")),
)
