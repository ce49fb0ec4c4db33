"""T5 (Raffel et al., 2020) and T5 v1.1: every task as text to text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from langwright.base.value_types import one_of
from langwright.models.config import Config, Count, Fields, Positive, Rate, ShapeFields, Size
from langwright.models.family import AdapterTargets, Family
from langwright.models.initialise import by_inputs
from langwright.models.keymap import Entry, names, projections, within
from langwright.models.model import Frame, Model, stack
from langwright.models.task_heads import encoder_decoder_heads, encoder_token_head
from langwright.parts import GLU, MLP, Attention, Bias, Embedding, LanguageHead, Norm, RelativeBias, Stack

FEEDFORWARDS = {"relu": (MLP, "relu"), "gated-gelu": (GLU, "gelu_tanh"), "gated-silu": (GLU, "silu")}


@dataclass(frozen=True)
class T5Config(Config):
    """The honoured fields, under their names in config.json.

    num_decoder_layers: `num_layers` unless given.
    tie_word_embeddings: whether the head is the embedding table; hidden states are then divided by sqrt(d_model) first.
    """

    vocab_size: Size = 32128
    d_model: Size = 512
    d_kv: Size = 64
    d_ff: Size = 2048
    num_layers: Count = 6
    num_decoder_layers: Count | None = None
    num_heads: Size = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: Size = 128
    dropout_rate: Rate = 0.1
    classifier_dropout: Rate = 0.0
    layer_norm_epsilon: Rate = 1e-6
    initializer_factor: Positive = 1.0
    feed_forward_proj: Annotated[str, one_of(FEEDFORWARDS)] = "relu"
    tie_word_embeddings: bool = True
    decoder_start_token_id: int = 0
    eos_token_id: int | tuple[int, ...] | None = 1
    pad_token_id: int | None = 0

    shape = ShapeFields("d_model", "num_layers", "num_heads", context=None, head_dim="d_kv")

    def __post_init__(self) -> None:
        super().__post_init__()
        buckets, longest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 4 or longest <= buckets // 2:
            raise ValueError(f"relative_attention_num_buckets = {buckets} is no multiple of 4 that {longest} goes with")

    @property
    def decoder_layers(self) -> int:
        """How many layers write."""
        return self.num_decoder_layers or self.num_layers


def dense(config: T5Config, decoder: bool, layer: int) -> nn.Module:
    """The same feed-forward in every layer, plain or gated."""
    kind, activation = FEEDFORWARDS[config.feed_forward_proj]
    return kind(config.d_model, config.d_ff, activation, dropout=config.dropout_rate)


def build(config: T5Config, feedforward: Callable[[Any, bool, int], nn.Module] = dense) -> Model:
    """Pre-norm blocks with RMSNorm, scores that are not scaled, and one table of relative positions a stack.

    feedforward: makes that of a layer, given config, whether it is the decoder's, and the layer's number.
    """
    c, drop = config, config.dropout_rate

    def attention(memory: int | None) -> Attention:
        return Attention(c.d_model, c.num_heads, head_dim=c.d_kv, scale=1.0, dropout=drop, memory_dim=memory)

    def side(embed: Embedding, layers: int, decoder: bool) -> Stack:
        buckets, longest = c.relative_attention_num_buckets, c.relative_attention_max_distance
        table = RelativeBias(c.num_heads, buckets, longest, both=not decoder)
        return stack(
            embed,
            layers,
            norm=lambda: Norm(c.d_model, "rms", c.layer_norm_epsilon),
            attention=lambda layer: attention(None),
            feedforward=lambda layer: feedforward(c, decoder, layer),
            cross=(lambda layer: attention(c.d_model)) if decoder else None,
            bias=lambda layer: Bias(causal=decoder, term=table),
            dropout=drop,
            out_dropout=drop,
        )

    embed = Embedding(c.vocab_size, c.d_model, dropout=drop)
    written = Embedding(c.vocab_size, c.d_model, dropout=drop, tied=embed.tokens)
    encoder, body = side(embed, c.num_layers, decoder=False), side(written, c.decoder_layers, decoder=True)
    tied, scale = (embed.tokens, c.d_model**-0.5) if c.tie_word_embeddings else (None, 1.0)
    head = LanguageHead(c.vocab_size, c.d_model, tied, scale=scale)
    return Model(body, {"head": head}, {"encoder": encoder}, config=c, frame=Frame(c.decoder_start_token_id))


def dense_keys(config: T5Config) -> list[Entry]:
    """Of the feed-forward of a layer."""
    gated = config.feed_forward_proj.startswith("gated")
    inputs = {"wi_0": "gate", "wi_1": "input"} if gated else {"wi": "input"}
    return within("DenseReluDense", "fn", names({**inputs, "wo": "output"}))


def keys(config: T5Config, feedforward: Callable[[Any], list[Entry]] = dense_keys, apart: bool = False) -> list[Entry]:
    """Branches are numbered; the table of relative positions lies with the first layer.

    apart: `transformers` takes the embeddings of each stack for a tensor of its own where the head is one.
    """
    tied = config.tie_word_embeddings
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *["lm_head.weight"] * tied)
    entries = [
        Entry("shared.weight", ("encoder.embed.tokens",), copies=copies, repeated=apart and not tied),
        Entry("lm_head", ("head",), fallback=None if apart else "shared.weight"),
    ]
    norm = names({"layer_norm": "in_norm"})
    for side, ours, last in (("encoder", "encoder", 1), ("decoder", "body", 2)):
        branches = [
            *within("layer.0", "attention", norm + projections("SelfAttention.{}", "fn")),
            *within("layer.1", "cross", norm + projections("EncDecAttention.{}", "fn")),
            *within(f"layer.{last}", "feedforward", norm + feedforward(config)),
        ]
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        entries += within(f"{side}.block.*", f"{ours}.blocks.*", branches)
        entries += names({table: f"{ours}.terms.*.table", f"{side}.final_layer_norm": f"{ours}.final_norm"})
    return entries


def read(raw: Fields) -> Fields:
    """`transformers` 5 calls every head tied, and writes what decides under another name.

    Its class for labels of tokens says that there is no decoder.
    """
    fields = dict(raw)
    if fields.get("architectures") == ["T5ForTokenClassification"]:
        fields.pop("is_encoder_decoder", None)
    scaled = fields.pop("scale_decoder_outputs", None)
    return fields if scaled is None else {**fields, "tie_word_embeddings": scaled}


def write(fields: Fields) -> Fields:
    """With what `transformers` 5 reads elsewhere."""
    return {"is_encoder_decoder": True, **fields, "scale_decoder_outputs": fields["tie_word_embeddings"]}


T5 = Family(
    name="t5",
    architecture="T5ForConditionalGeneration",
    config=T5Config,
    builder=build,
    keys=keys,
    initialise=by_inputs,
    rate=0.25,
    heads=encoder_decoder_heads("T5", "transformer.")
    | {"token": encoder_token_head("T5ForTokenClassification", "transformer.")},
    inert=("dense_act_fn", "is_gated_act", "n_positions", "output_past"),
    default_only={"is_encoder_decoder": True},
    ignored_keys=(".EncDecAttention.relative_attention_bias.weight",),
    read=read,
    write=write,
    adapters=AdapterTargets(("q", "v"), ia3=("k", "v"), ia3_inputs=("wo",), norms=("layer_norm", "final_layer_norm")),
    adapterhub="layer",
    presets={
        f"t5-{name}": {"d_model": width, "num_layers": layers, "num_heads": heads, "d_ff": hidden, "d_kv": head}
        for name, width, layers, heads, hidden, head in (
            ("small", 512, 6, 8, 2048, 64),
            ("base", 768, 12, 12, 3072, 64),
            ("large", 1024, 24, 16, 4096, 64),
            ("3b", 1024, 24, 32, 16384, 128),
            ("11b", 1024, 24, 128, 65536, 128),
        )
    },
)
