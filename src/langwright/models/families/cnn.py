"""A convolutional language model: gated causal convolutions (Dauphin et al., 2017), which read a fixed span."""

from dataclasses import dataclass

from langwright.models.config import Config, Rate, ShapeFields, Size, Spread
from langwright.models.family import AdapterTargets, Family
from langwright.models.keymap import Entry, layers, names
from langwright.models.model import Model, language_model
from langwright.models.task_heads import pooled_heads
from langwright.parts import CausalConvolution, Embedding, MixerBlock, Norm, Residual, Stack


@dataclass(frozen=True)
class CNNConfig(Config):
    """The fields of config.json.

    kernel_size: how many tokens an output of a layer reads. dilation: each layer reads tokens so many times as far
    apart as the layer below it; 2 doubles the span with every layer.
    """

    vocab_size: Size = 10000
    hidden_size: Size = 256
    num_hidden_layers: Size = 4
    kernel_size: Size = 4
    dilation: Size = 1
    hidden_dropout: Rate = 0.0
    embedding_dropout: Rate = 0.0
    layer_norm_epsilon: Rate = 1e-5
    tie_word_embeddings: bool = True
    initializer_range: Spread = 0.02

    shape = ShapeFields(heads=None, context=None)

    @property
    def output_width(self) -> int:
        """The width of the hidden states that the head reads."""
        return self.hidden_size

    @property
    def span(self) -> int:
        """How many tokens a prediction depends on."""
        return 1 + sum((self.kernel_size - 1) * self.dilation**layer for layer in range(self.num_hidden_layers))


def build(config: CNNConfig) -> Model:
    """Pre-norm residual branches with LayerNorm, and no positions: a convolution knows the order."""
    c = config

    def norm() -> Norm:
        return Norm(c.hidden_size, "layer", c.layer_norm_epsilon, bias=True)

    mixers = [CausalConvolution(c.hidden_size, c.kernel_size, c.dilation**i) for i in range(c.num_hidden_layers)]
    blocks = [MixerBlock(Residual(mixer, in_norm=norm(), dropout=c.hidden_dropout)) for mixer in mixers]
    body = Stack(Embedding(c.vocab_size, c.hidden_size, dropout=c.embedding_dropout), blocks, norm())
    return language_model(body, c, c.tie_word_embeddings)


def keys(config: CNNConfig) -> list[Entry]:
    """Our own names."""
    layer = names({"convolution": "mixer.fn.input", "norm": "mixer.in_norm"})
    table = {"embedding.weight": "body.embed.tokens", "norm": "body.final_norm", "lm_head.weight": "head.weight"}
    return [*names(table), *layers("layers", layer)]


CNN = Family(
    name="cnn",
    architecture="CNNForCausalLM",
    config=CNNConfig,
    builder=build,
    keys=keys,
    heads=pooled_heads("CNN", "max"),  # over time, as Kim (2014)
    own=True,
    carries=True,
    adapters=AdapterTargets(lora=("convolution",)),
)
