"""GPT-Neo (Black et al., 2021): every other layer sees a window, and scores are not scaled."""

from dataclasses import dataclass

from langwright.base.value_types import fits
from langwright.models.checks import ACTIVATIONS, check_choice, check_heads, check_layers, check_sizes
from langwright.models.family import SUMMARY, AdapterTargets, Family, Fields, ShapeFields
from langwright.models.keymap import Entry, affine, affines, numbered, projections
from langwright.models.model import Model
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.stack import Block, Embedding, Residual, Stack


@dataclass(frozen=True)
class GPTNeoConfig:
    """The honoured fields, under their names in config.json.

    attention_layers: global or local for each layer, from `attention_types` in the file; None means in turns.
    intermediate_size: None means 4 * hidden_size.
    """

    vocab_size: int = 50257
    max_position_embeddings: int = 2048
    hidden_size: int = 2048
    num_layers: int = 24
    num_heads: int = 16
    intermediate_size: int | None = None
    window_size: int = 256
    attention_layers: tuple[str, ...] | None = None
    activation_function: str = "gelu_new"
    resid_dropout: float = 0.0
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "max_position_embeddings", "hidden_size", "num_layers", "num_heads", "window_size")
        check_sizes(self, sizes, ("intermediate_size",))
        check_heads(self, "hidden_size", "num_heads")
        check_choice(self, "activation_function")
        check_layers("attention_types", self.attention_layers, ("global", "local"), self.num_layers)

    def window(self, layer: int) -> int | None:
        """How many positions a layer sees; None for all."""
        local = layer % 2 == 1 if self.attention_layers is None else self.attention_layers[layer] == "local"
        return self.window_size if local else None


def build(config: GPTNeoConfig) -> Model:
    """Pre-norm blocks with LayerNorm, learned positions, no biases of q, k and v, and a tied head."""
    c = config

    def norm() -> Norm:
        return Norm(c.hidden_size, "layer", c.layer_norm_epsilon, bias=True)

    def block(layer: int) -> Block:
        attention = Attention(c.hidden_size, c.num_heads, bias="o", scale=1.0, dropout=c.attention_dropout)
        inner = c.intermediate_size or 4 * c.hidden_size
        mlp = MLP(c.hidden_size, inner, ACTIVATIONS[c.activation_function], bias=True)
        first, second = (Residual(fn, in_norm=norm(), dropout=c.resid_dropout) for fn in (attention, mlp))
        return Block(first, second, Bias(causal=True, window=c.window(layer)))

    embed = Embedding(c.vocab_size, c.hidden_size, c.max_position_embeddings, c.embed_dropout)
    body = Stack(embed, [block(i) for i in range(c.num_layers)], norm())
    head = LanguageHead(c.vocab_size, c.hidden_size, tied=embed.tokens)
    return Model(body, {"head": head}, family="gpt_neo", config=c, context=c.max_position_embeddings)


def keys(config: GPTNeoConfig) -> list[Entry]:
    """Every projection is a tensor of its own, as ours are."""
    layer = [
        *projections("attn.attention.{}_proj", "attention.fn", biased="o", output="out"),
        *affines({"mlp.c_fc": "feedforward.fn.input", "mlp.c_proj": "feedforward.fn.output"}),
        *affines({"ln_1": "attention.in_norm", "ln_2": "feedforward.in_norm"}),
    ]
    return [
        Entry("transformer.wte.weight", ("body.embed.tokens",)),
        Entry("transformer.wpe.weight", ("body.embed.positions",)),
        *numbered(config.num_layers, "transformer.h", layer),
        *affine("transformer.ln_f", "body.final_norm"),
    ]


def read(raw: Fields) -> Fields:
    """`attention_types` written out, one word a layer; the list `attention_layers` beside it must say the same."""
    fields = dict(raw)
    types = fields.pop("attention_types", None)
    if types is not None:
        if any(len(pair) != 2 or not (fits(pair[0], tuple[str, ...]) and fits(pair[1], int)) for pair in types):
            raise ValueError(f"attention_types = {types!r} must be pairs of a list of layers and how often it comes")
        layers = [word for words, times in types for word in list(words) * times]
        if fields.get("attention_layers") not in (None, layers):
            raise ValueError("attention_types and attention_layers say different things")
        fields["attention_layers"] = layers
    return fields


def write(fields: Fields) -> Fields:
    """Both spellings of the layers."""
    layers = fields["attention_layers"] or [("global", "local")[i % 2] for i in range(fields["num_layers"])]
    return {**fields, "attention_layers": list(layers), "attention_types": [[list(layers), 1]]}


GPT_NEO = Family(
    name="gpt_neo",
    architecture="GPTNeoForCausalLM",
    config=GPTNeoConfig,
    build=build,
    keys=keys,
    inert=("classifier_dropout", *SUMMARY),
    default_only={"tie_word_embeddings": True},
    ignored_keys=(".attn.attention.bias", ".attn.attention.masked_bias"),
    prefix="transformer.",
    read=read,
    write=write,
    adapters=AdapterTargets(ia3=("q_proj", "v_proj"), ia3_inputs=("c_proj",)),
    shape=ShapeFields(layers="num_layers", heads="num_heads", gated=False),
)
