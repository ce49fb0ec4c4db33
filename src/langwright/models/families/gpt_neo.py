"""GPT-Neo (Black et al., 2021): every other layer sees a window, and scores are not scaled."""

from dataclasses import dataclass
from typing import Annotated

from langwright.base.value_types import fits, one_of
from langwright.models.config import ACTIVATIONS, Activation, Config, Count, Rate, ShapeFields, Size, Spread
from langwright.models.family import SUMMARY, AdapterTargets, Family, Fields
from langwright.models.keymap import Entry, layers, names, projections
from langwright.models.model import Model, language_model, stack
from langwright.models.task_heads import causal_heads
from langwright.parts import MLP, Attention, Bias, Embedding, Norm


@dataclass(frozen=True)
class GPTNeoConfig(Config):
    """The honoured fields, under their names in config.json.

    attention_layers: global or local for each layer, from `attention_types` in the file; None means in turns.
    intermediate_size: None means 4 * hidden_size.
    """

    vocab_size: Size = 50257
    max_position_embeddings: Size = 2048
    hidden_size: Size = 2048
    num_layers: Count = 24
    num_heads: Size = 16
    intermediate_size: Size | None = None
    window_size: Size = 256
    attention_layers: tuple[Annotated[str, one_of(("global", "local"))], ...] | None = None
    activation_function: Activation = "gelu_new"
    resid_dropout: Rate = 0.0
    embed_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    classifier_dropout: Rate = 0.1
    layer_norm_epsilon: Rate = 1e-5
    initializer_range: Spread = 0.02

    shape = ShapeFields(layers="num_layers", heads="num_heads", gated=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_layers is not None and len(self.attention_layers) != self.num_layers:
            raise ValueError(f"attention_types must name global or local once for each of {self.num_layers} layers")

    def window(self, layer: int) -> int | None:
        """How many positions a layer sees; None for all."""
        local = layer % 2 == 1 if self.attention_layers is None else self.attention_layers[layer] == "local"
        return self.window_size if local else None


def build(config: GPTNeoConfig) -> Model:
    """Pre-norm blocks with LayerNorm, learned positions, no biases of q, k and v, and a tied head."""
    c = config
    inner, activation = c.intermediate_size or 4 * c.hidden_size, ACTIVATIONS[c.activation_function]
    body = stack(
        Embedding(c.vocab_size, c.hidden_size, c.max_position_embeddings, c.embed_dropout),
        c.num_layers,
        norm=lambda: Norm(c.hidden_size, "layer", c.layer_norm_epsilon, bias=True),
        attention=lambda layer: Attention(c.hidden_size, c.num_heads, bias="o", scale=1.0, dropout=c.attention_dropout),
        feedforward=lambda layer: MLP(c.hidden_size, inner, activation, bias=True),
        bias=lambda layer: Bias(causal=True, window=c.window(layer)),
        dropout=c.resid_dropout,
    )
    return language_model(body, c)


def keys(config: GPTNeoConfig) -> list[Entry]:
    """Every projection is a tensor of its own, as ours are."""
    layer = {
        "mlp.c_fc": "feedforward.fn.input",
        "mlp.c_proj": "feedforward.fn.output",
        "ln_1": "attention.in_norm",
        "ln_2": "feedforward.in_norm",
    }
    return [
        *names({"transformer.wte.weight": "body.embed.tokens", "transformer.wpe.weight": "body.embed.positions"}),
        *layers("transformer.h", names(layer) + projections("attn.attention.{}_proj", output="out")),
        *names({"transformer.ln_f": "body.final_norm"}),
    ]


def read(raw: Fields) -> Fields:
    """`attention_types` written out, one word a layer; the list `attention_layers` beside it must say the same."""
    fields = dict(raw)
    types = fields.pop("attention_types", None)
    if types is not None:
        if any(len(pair) != 2 or not (fits(pair[0], tuple[str, ...]) and fits(pair[1], int)) for pair in types):
            raise ValueError(f"attention_types = {types!r} must be pairs of a list of layers and how often it comes")
        words = [word for words, times in types for word in list(words) * times]
        if fields.get("attention_layers") not in (None, words):
            raise ValueError("attention_types and attention_layers say different things")
        fields["attention_layers"] = words
    return fields


def write(fields: Fields) -> Fields:
    """Both spellings of the layers."""
    words = fields["attention_layers"] or [("global", "local")[i % 2] for i in range(fields["num_layers"])]
    return {**fields, "attention_layers": list(words), "attention_types": [[list(words), 1]]}


GPT_NEO = Family(
    name="gpt_neo",
    architecture="GPTNeoForCausalLM",
    heads=causal_heads("GPTNeo", output="classifier", dropout=lambda c: c.classifier_dropout),
    config=GPTNeoConfig,
    builder=build,
    keys=keys,
    inert=SUMMARY,
    default_only={"tie_word_embeddings": True},
    ignored_keys=(".attn.attention.bias", ".attn.attention.masked_bias"),
    prefix="transformer.",
    read=read,
    write=write,
    adapters=AdapterTargets(ia3=("q_proj", "v_proj"), ia3_inputs=("c_proj",)),
)
