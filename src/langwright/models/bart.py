"""BART (Lewis et al., 2020), and Marian (Junczys-Dowmunt et al., 2018), which is the Transformer of 2017."""

import math
from dataclasses import dataclass
from functools import partial

from torch import nn

from langwright.models.encoder_decoder import EncoderDecoderLM, Frame
from langwright.models.family import Family, Fields, check_sizes
from langwright.models.initialise import normal
from langwright.models.keymap import Entry
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.positions import Sinusoids
from langwright.parts.stack import Block, Embedding, Residual, Stack

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


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
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 1

    def __post_init__(self) -> None:
        sizes = ("layers", "ffn_dim", "attention_heads")
        both = [f"{side}_{size}" for side in ("encoder", "decoder") for size in sizes]
        check_sizes(self, ("vocab_size", "max_position_embeddings", "d_model", *both))
        if (
            self.d_model % 2
            or self.d_model % self.encoder_attention_heads
            or self.d_model % self.decoder_attention_heads
        ):
            raise ValueError(f"d_model = {self.d_model} is not an even multiple of the attention heads")
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(
                f"activation_function = {self.activation_function!r} is not one of {', '.join(ACTIVATIONS)}"
            )
        if any(len(word) != 1 for word in self.bad_words_ids or ()):
            raise ValueError(f"bad_words_ids = {self.bad_words_ids}: only single tokens can be banned")


def build(config: BartConfig, family: str, sinusoids: bool) -> EncoderDecoderLM:
    """Post-norm blocks with biases everywhere and no norm at the end.

    sinusoids: fixed positions and no norm of the embeddings (Marian) instead of learned positions and that norm (BART).
    """
    c = config

    def norm() -> Norm:
        return Norm(c.d_model, "layer", 1e-5, bias=True)

    def branch(fn: nn.Module) -> Residual:
        return Residual(fn, out_norm=norm(), dropout=c.dropout)

    def attention(heads: int, memory_dim: int | None = None) -> Residual:
        drop = c.attention_dropout
        return branch(Attention(c.d_model, heads, bias="qkvo", dropout=drop, memory_dim=memory_dim))

    def feedforward(hidden: int) -> Residual:
        activation = ACTIVATIONS[c.activation_function]
        return branch(MLP(c.d_model, hidden, activation, bias=True, dropout=c.activation_dropout))

    def embedding(tied: nn.Parameter | None = None) -> Embedding:
        scale = math.sqrt(c.d_model) if c.scale_embedding else None
        return Embedding(
            c.vocab_size, c.d_model, None if sinusoids else c.max_position_embeddings + 2, c.dropout,
            norm=None if sinusoids else norm(), offset=2, scale=scale,
            sinusoids=Sinusoids(c.d_model) if sinusoids else None, tied=tied,
        )  # fmt: skip

    source = embedding()
    read = [
        Block(attention(c.encoder_attention_heads), feedforward(c.encoder_ffn_dim), Bias())
        for _ in range(c.encoder_layers)
    ]
    write = [
        Block(
            attention(c.decoder_attention_heads),
            feedforward(c.decoder_ffn_dim),
            Bias(causal=True),
            attention(c.decoder_attention_heads, c.d_model),
        )
        for _ in range(c.decoder_layers)
    ]
    encoder, body = Stack(source, read, None), Stack(embedding(source.tokens), write, None)
    head = LanguageHead(c.vocab_size, c.d_model, source.tokens, offset=True)
    frame = Frame(
        c.decoder_start_token_id,
        source_bos=not sinusoids,
        first=c.forced_bos_token_id,
        last=c.forced_eos_token_id,
        banned=tuple(word[0] for word in c.bad_words_ids or ()),
    )
    return EncoderDecoderLM(family, c, c.max_position_embeddings, encoder, body, head, frame)


def keys(config: BartConfig, sinusoids: bool) -> list[Entry]:
    """Every projection is a tensor of its own; the offset of the logits is missing in files without a head."""
    copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    entries = [Entry("model.shared.weight", ("encoder.embed.tokens",), copies=copies)]
    layers = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    for side, name in (("encoder", "encoder"), ("decoder", "body")):
        if not sinusoids:
            entries.append(Entry(f"model.{side}.embed_positions.weight", (f"{name}.embed.positions",)))
        pairs = [] if sinusoids else [("layernorm_embedding", "embed.norm")]
        for i in range(layers[side]):
            for branch, theirs in (("attention", "self_attn"), ("cross", "encoder_attn")):
                if branch == "attention" or side == "decoder":
                    ours = f"blocks.{i}.{branch}"
                    for letter, part in zip("qkv", "qkv", strict=True):
                        pairs.append((f"layers.{i}.{theirs}.{letter}_proj", f"{ours}.fn.{part}"))
                    pairs.append((f"layers.{i}.{theirs}.out_proj", f"{ours}.fn.output"))
                    pairs.append((f"layers.{i}.{theirs}_layer_norm", f"{ours}.out_norm"))
            ours = f"blocks.{i}.feedforward"
            pairs += [(f"layers.{i}.fc1", f"{ours}.fn.input"), (f"layers.{i}.fc2", f"{ours}.fn.output")]
            pairs.append((f"layers.{i}.final_layer_norm", f"{ours}.out_norm"))
        for disk, ours in pairs:
            for kind in ("weight", "bias"):
                entries.append(Entry(f"model.{side}.{disk}.{kind}", (f"{name}.{ours}.{kind}",)))
    return [*entries, Entry("final_logits_bias", ("head.offset",), zero_if_missing=True)]


def read(raw: Fields) -> Fields:
    """Lists as tuples, and one vocabulary for both sides."""
    fields = dict(raw)
    if fields.get("bad_words_ids") is not None:
        fields["bad_words_ids"] = tuple(map(tuple, fields["bad_words_ids"]))
    if fields.get("decoder_vocab_size") in (None, fields.get("vocab_size", 58101)):
        fields.pop("decoder_vocab_size", None)
    return fields


def write(fields: Fields) -> Fields:
    """With what `transformers` reads elsewhere."""
    return {"is_encoder_decoder": True, "num_hidden_layers": fields["encoder_layers"], **fields}


INERT = (
    "_num_labels",
    "add_bias_logits",
    "classif_dropout",
    "classifier_dropout",
    "early_stopping",
    "extra_pos_embeddings",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beams",
    "num_hidden_layers",
    "output_past",
)
FIXED = {
    "add_final_layer_norm": False,
    "decoder_layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "is_encoder_decoder": True,
    "normalize_before": False,
    "tie_word_embeddings": True,
}
BART = Family(
    name="bart",
    architecture="BartForConditionalGeneration",
    config=BartConfig,
    build=partial(build, family="bart", sinusoids=False),
    keys=partial(keys, sinusoids=False),
    initialise=lambda model: normal(model, model.config.init_std),
    also=("BartModel",),
    inert=INERT,
    default_only={**FIXED, "normalize_embedding": True, "static_position_embeddings": False},
    ignored_keys=("encoder.version", "decoder.version"),
    prefix="model.",
    read=read,
    write=write,
)
MARIAN = Family(
    name="marian",
    architecture="MarianMTModel",
    config=BartConfig,
    build=partial(build, family="marian", sinusoids=True),
    keys=partial(keys, sinusoids=True),
    initialise=lambda model: normal(model, model.config.init_std),
    also=("MarianModel",),
    defaults={
        "vocab_size": 58101,
        "decoder_start_token_id": 58100,
        "forced_eos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 58100,
    },
    inert=INERT,
    default_only={
        **FIXED,
        "normalize_embedding": False,
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
    },
    ignored_keys=(".embed_positions.weight",),
    prefix="model.",
    read=read,
    write=write,
)
