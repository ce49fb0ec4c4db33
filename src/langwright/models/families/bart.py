"""BART (Lewis et al., 2020): an encoder and a decoder with norms after each branch, and learned positions."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from langwright.models.checks import ACTIVATIONS, check_choice, check_sizes
from langwright.models.family import AdapterTargets, Family, Fields, ShapeFields
from langwright.models.initialise import normal
from langwright.models.keymap import Entry, affine, affines, numbered, projections, within
from langwright.models.model import Frame, Model
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.stack import Block, Embedding, Residual, Stack


@dataclass(frozen=True)
class BartConfig:
    """The honoured fields, under their names in config.json.

    decoder_start_token_id, forced_bos_token_id, forced_eos_token_id, bad_words_ids (single tokens): see `Frame`.
    """

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    decoder_start_token_id: int = 2
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = 2
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = 1

    def __post_init__(self) -> None:
        sizes = ("layers", "ffn_dim", "attention_heads")
        both = [f"{side}_{size}" for side in ("encoder", "decoder") for size in sizes]
        check_sizes(self, ("vocab_size", "max_position_embeddings", "d_model", *both))
        if any(self.d_model % parts for parts in (2, self.encoder_attention_heads, self.decoder_attention_heads)):
            raise ValueError(f"d_model = {self.d_model} is not an even multiple of the attention heads")
        check_choice(self, "activation_function")
        if any(len(word) != 1 for word in self.bad_words_ids or ()):
            raise ValueError(f"bad_words_ids = {self.bad_words_ids}: only single tokens can be banned")

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
    family: str = "bart",
    embedding: Callable[[BartConfig, nn.Parameter | None], Embedding] = embedding,
    source_bos: bool = True,
) -> Model:
    """Post-norm blocks with biases everywhere and no norm at the end.

    embedding: makes that of a stack, given the config and the token table of the other one. source_bos: see `Frame`.
    """
    c = config

    def branch(fn: nn.Module) -> Residual:
        return Residual(fn, out_norm=c.norm(), dropout=c.dropout)

    def block(heads: int, hidden: int, decoder: bool) -> Block:
        def attention(memory: int | None = None) -> Residual:
            drop = c.attention_dropout
            return branch(Attention(c.d_model, heads, bias="qkvo", dropout=drop, memory_dim=memory))

        mlp = MLP(c.d_model, hidden, ACTIVATIONS[c.activation_function], bias=True, dropout=c.activation_dropout)
        return Block(attention(), branch(mlp), Bias(causal=decoder), attention(c.d_model) if decoder else None)

    source = embedding(c, None)
    read = [block(c.encoder_attention_heads, c.encoder_ffn_dim, False) for _ in range(c.encoder_layers)]
    write = [block(c.decoder_attention_heads, c.decoder_ffn_dim, True) for _ in range(c.decoder_layers)]
    encoder, body = Stack(source, read, None), Stack(embedding(c, source.tokens), write, None)
    head = LanguageHead(c.vocab_size, c.d_model, source.tokens, offset=True)
    banned = tuple(word[0] for word in c.bad_words_ids or ())
    frame = Frame(c.decoder_start_token_id, source_bos, c.forced_bos_token_id, c.forced_eos_token_id, banned)
    context = c.max_position_embeddings
    return Model(body, {"head": head}, {"encoder": encoder}, family=family, config=c, context=context, frame=frame)


EMBEDDING = [Entry("embed_positions.weight", ("embed.positions",)), *affine("layernorm_embedding", "embed.norm")]


def keys(config: BartConfig, embedding: Collection[Entry] = EMBEDDING) -> list[Entry]:
    """Every projection is a tensor of its own; the offset of the logits is missing in files without a head.

    embedding: what that of a stack has besides the token table.
    """
    copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    layer = [
        *projections("self_attn.{}_proj", "attention.fn", "qkvo", output="out"),
        *affines({"fc1": "feedforward.fn.input", "fc2": "feedforward.fn.output"}),
        *affines({"self_attn_layer_norm": "attention.out_norm", "final_layer_norm": "feedforward.out_norm"}),
    ]
    cross = [
        *projections("encoder_attn.{}_proj", "cross.fn", "qkvo", output="out"),
        *affine("encoder_attn_layer_norm", "cross.out_norm"),
    ]
    return [
        Entry("model.shared.weight", ("encoder.embed.tokens",), copies=copies),
        *within("model.encoder", "encoder", embedding),
        *within("model.decoder", "body", embedding),
        *numbered(config.encoder_layers, "model.encoder.layers", layer, ours="encoder.blocks"),
        *numbered(config.decoder_layers, "model.decoder.layers", layer + cross),
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
    build=build,
    keys=keys,
    initialise=lambda model: normal(model, model.config.init_std),
    also=("BartModel",),
    inert=(
        "_num_labels", "add_bias_logits", "classif_dropout", "classifier_dropout", "early_stopping",
        "extra_pos_embeddings", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beams",
        "num_hidden_layers", "output_past",
    ),
    default_only={
        "add_final_layer_norm": False,
        "decoder_layerdrop": 0.0,
        "encoder_layerdrop": 0.0,
        "is_encoder_decoder": True,
        "normalize_before": False,
        "normalize_embedding": True,
        "static_position_embeddings": False,
        "tie_word_embeddings": True,
    },
    ignored_keys=("encoder.version", "decoder.version"),
    prefix="model.",
    read=read,
    write=write,
    adapters=AdapterTargets(
        lora=("q_proj", "v_proj"),
        ia3=("q_proj", "v_proj"),
        ia3_inputs=("fc2",),
        norms=("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    ),
    shape=ShapeFields("d_model", "encoder_layers", "encoder_attention_heads"),
    presets={"bart-base": sizes(6, 12, 768, 3072), "bart-large": sizes(12, 16, 1024, 4096)},
)  # fmt: skip
