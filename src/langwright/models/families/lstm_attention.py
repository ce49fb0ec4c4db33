"""Two LSTMs and attention between them (Bahdanau et al., 2015; Luong et al., 2015): the step before the Transformer."""

from dataclasses import dataclass

from langwright.models.config import Config, Fields, Positive, Rate, ShapeFields, Size
from langwright.models.families.recurrent import LAYER, initialise
from langwright.models.family import Family
from langwright.models.keymap import Entry, layers, names, projections
from langwright.models.model import Frame, Model
from langwright.parts import Attention, Bidirectional, Embedding, LanguageHead, MixerBlock, Recurrent, Residual, Stack


@dataclass(frozen=True)
class LSTMAttentionConfig(Config):
    """The fields of config.json.

    hidden_size: width of the token vectors and of both directions of the encoder together. embedding_dropout,
    hidden_dropout, initializer_range: as of `lstm`. decoder_start_token_id: see `Frame`.
    """

    vocab_size: Size = 10000
    hidden_size: Size = 512
    encoder_layers: Size = 2
    decoder_layers: Size = 2
    embedding_dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    initializer_range: Positive = 0.1
    decoder_start_token_id: int = 0
    eos_token_id: int | tuple[int, ...] | None = 1
    pad_token_id: int | None = 0

    shape = ShapeFields(layers="encoder_layers", heads=None, context=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size = {self.hidden_size} is odd, and the encoder reads in two directions")


def build(config: LSTMAttentionConfig) -> Model:
    """The encoder reads both ways; the decoder ends with attention of one head, which is added to its hidden states.

    Both token tables and the head are one.
    """
    c, width = config, config.hidden_size
    read = Embedding(c.vocab_size, width, dropout=c.embedding_dropout)
    written = Embedding(c.vocab_size, width, dropout=c.embedding_dropout, tied=read.tokens)
    both = [MixerBlock(Bidirectional(width, width, "lstm", c.hidden_dropout)) for _ in range(c.encoder_layers)]
    down = [MixerBlock(Recurrent(width, width, "lstm", c.hidden_dropout)) for _ in range(c.decoder_layers)]
    across = MixerBlock(Residual(Attention(width, 1, bias="qkvo", memory_dim=width), dropout=c.hidden_dropout))
    head = LanguageHead(c.vocab_size, width, read.tokens, bias=True)
    encoder, body = Stack(read, both, final_norm=None), Stack(written, [*down, across], final_norm=None)
    return Model(body, {"head": head}, {"encoder": encoder}, config=c, frame=Frame(c.decoder_start_token_id))


def keys(config: LSTMAttentionConfig) -> list[Entry]:
    """Our own names."""
    ways = {f"{way}.{name}": f"mixer.{way}.{name}" for way in ("ahead", "behind") for name in LAYER}
    return [
        *names({"embedding.weight": "encoder.embed.tokens", "lm_head.bias": "head.bias"}),
        *layers("encoder.layers", names(ways), "encoder"),
        *layers(
            "decoder.layers", names({name: f"mixer.{name}" for name in LAYER}) + projections("{}_proj", "mixer.fn")
        ),
    ]


def write(fields: Fields) -> Fields:
    """It says what kind of model it is."""
    return {"is_encoder_decoder": True, **fields}


LSTM_ATTENTION = Family(
    name="lstm-attention",
    architecture="LSTMForConditionalGeneration",
    config=LSTMAttentionConfig,
    builder=build,
    keys=keys,
    initialise=initialise,
    own=True,
    default_only={"is_encoder_decoder": True},
    write=write,
)
