"""BART (Lewis et al., 2020): an encoder and a decoder with norms after each branch, and learned positions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from langwright.base.value_types import Rule
from langwright.models.config import ACTIVATIONS, Activation, Config, Count, Fields, Rate, ShapeFields, Size, Spread
from langwright.models.family import AdapterTargets, Family
from langwright.models.initialise import normal
from langwright.models.keymap import Entry, names, projections, within
from langwright.models.model import Frame, Model, stack
from langwright.models.task_heads import encoder_decoder_heads
from langwright.parts import MLP, Attention, Bias, Embedding, LanguageHead, Norm, Stack

Banned = Annotated[tuple[int, ...], Rule("a list of one token id", lambda word: len(word) == 1)]
"""A word that no target may hold; only single tokens can be banned."""


@dataclass(frozen=True)
class BartConfig(Config):
    """The honoured fields, under their names in config.json.

    decoder_start_token_id, forced_bos_token_id, forced_eos_token_id, bad_words_ids (single tokens): see `Frame`.
    """

    vocab_size: Size = 50265
    max_position_embeddings: Size = 1024
    encoder_layers: Count = 12
    encoder_ffn_dim: Size = 4096
    encoder_attention_heads: Size = 16
    decoder_layers: Count = 12
    decoder_ffn_dim: Size = 4096
    decoder_attention_heads: Size = 16
    activation_function: Activation = "gelu"
    d_model: Size = 1024
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    classifier_dropout: Rate = 0.0
    init_std: Spread = 0.02
    scale_embedding: bool = False
    decoder_start_token_id: int = 2
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = 2
    bad_words_ids: tuple[Banned, ...] | None = None
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = 1

    shape = ShapeFields("d_model", "encoder_layers", "encoder_attention_heads")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_multiple("d_model", "decoder_attention_heads")
        if self.d_model % 2:
            raise ValueError(f"d_model = {self.d_model} is odd")

    def norm(self) -> Norm:
        """A LayerNorm of the residual stream."""
        return Norm(self.d_model, "layer", 1e-5, bias=True)

    def scale(self) -> float | None:
        """What multiplies token vectors."""
        return math.sqrt(self.d_model) if self.scale_embedding else None


def embedding(config: BartConfig, tied: nn.Parameter | None = None) -> Embedding:
    """Learned positions, and a norm of the sum. tied: the table of the other stack."""
    c = config
    positions = c.max_position_embeddings + 2
    return Embedding(c.vocab_size, c.d_model, positions, c.dropout, c.norm(), offset=2, scale=c.scale(), tied=tied)


def build(
    config: BartConfig,
    embedding: Callable[[BartConfig, nn.Parameter | None], Embedding] = embedding,
    source_bos: bool = True,
) -> Model:
    """Post-norm blocks with biases everywhere and no norm at the end.

    embedding: makes that of a stack, given the config and the token table of the other one. source_bos: see `Frame`.
    """
    c = config
    activation = ACTIVATIONS[c.activation_function]

    def side(embed: Embedding, layers: int, heads: int, hidden: int, decoder: bool) -> Stack:
        def attention(memory: int | None) -> Attention:
            return Attention(c.d_model, heads, bias="qkvo", dropout=c.attention_dropout, memory_dim=memory)

        return stack(
            embed,
            layers,
            norm=c.norm,
            norms="post",
            attention=lambda layer: attention(None),
            feedforward=lambda layer: MLP(c.d_model, hidden, activation, bias=True, dropout=c.activation_dropout),
            cross=(lambda layer: attention(c.d_model)) if decoder else None,
            bias=lambda layer: Bias(causal=decoder),
            dropout=c.dropout,
        )

    read = embedding(c, None)
    written = embedding(c, read.tokens)
    encoder = side(read, c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim, decoder=False)
    body = side(written, c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim, decoder=True)
    head = LanguageHead(c.vocab_size, c.d_model, read.tokens, offset=True)
    banned = tuple(word[0] for word in c.bad_words_ids or ())
    frame = Frame(c.decoder_start_token_id, source_bos, c.forced_bos_token_id, c.forced_eos_token_id, banned)
    return Model(body, {"head": head}, {"encoder": encoder}, config=c, frame=frame)


def keys(config: BartConfig) -> list[Entry]:
    """Every projection is a tensor of its own; the offset of the logits is missing in files without a head."""
    copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    layer = {
        "fc1": "feedforward.fn.input",
        "fc2": "feedforward.fn.output",
        "self_attn_layer_norm": "attention.out_norm",
        "final_layer_norm": "feedforward.out_norm",
        "encoder_attn_layer_norm": "cross.out_norm",
    }
    side = [
        *names({"embed_positions.weight": "embed.positions", "layernorm_embedding": "embed.norm"}),
        *within("layers.*", "blocks.*", names(layer)),
        *within("layers.*", "blocks.*", projections("self_attn.{}_proj", output="out")),
        *within("layers.*", "blocks.*", projections("encoder_attn.{}_proj", "cross.fn", output="out")),
    ]
    return [
        Entry("model.shared.weight", ("encoder.embed.tokens",), copies=copies),
        *within("model.encoder", "encoder", side),
        *within("model.decoder", "body", side),
        Entry("final_logits_bias", ("head.offset",), zero_if_missing=True),
    ]


def read(raw: Fields) -> Fields:
    """One vocabulary for both sides."""
    fields = dict(raw)
    if fields.get("decoder_vocab_size") in (None, fields.get("vocab_size", 58101)):
        fields.pop("decoder_vocab_size", None)
    return fields


def write(fields: Fields) -> Fields:
    """With what `transformers` reads elsewhere."""
    return {"is_encoder_decoder": True, "num_hidden_layers": fields["encoder_layers"], **fields}


def sizes(layers: int, heads: int, width: int, hidden: int, **rest: Any) -> Fields:
    """A published shape, the same on both sides."""
    one = {"layers": layers, "attention_heads": heads, "ffn_dim": hidden}
    return {"d_model": width, **{f"{side}_{n}": v for side in ("encoder", "decoder") for n, v in one.items()}, **rest}


BART = Family(
    name="bart",
    architecture="BartForConditionalGeneration",
    config=BartConfig,
    builder=build,
    keys=keys,
    initialise=lambda model: normal(model, model.config.init_std),
    heads=encoder_decoder_heads("Bart"),
    also=("BartModel",),
    inert=(
        "_num_labels", "add_bias_logits", "classif_dropout", "early_stopping",
        "extra_pos_embeddings", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beams",
        "num_hidden_layers", "output_past",
    ),
    default_only={
        "add_final_layer_norm": False, "decoder_layerdrop": 0.0, "encoder_layerdrop": 0.0, "is_encoder_decoder": True,
        "normalize_before": False, "normalize_embedding": True, "static_position_embeddings": False,
        "tie_word_embeddings": True,
    },
    ignored_keys=("encoder.version", "decoder.version"),
    prefix="model.",
    read=read,
    write=write,
    adapters=AdapterTargets(
        ia3=("q_proj", "v_proj"), ia3_inputs=("fc2",),
        norms=("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    ),
    rate=0.2,
    presets={"bart-base": sizes(6, 12, 768, 3072), "bart-large": sizes(12, 16, 1024, 4096)},
)  # fmt: skip
