"""T5 (Raffel et al., 2020) and T5 v1.1: every task as text to text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from langwright.models.encoder_decoder import EncoderDecoderLM, Frame
from langwright.models.family import Family, Fields, check_sizes
from langwright.models.initialise import normal
from langwright.models.keymap import Entry
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias, RelativeBias
from langwright.parts.feedforward import GLU, MLP
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.stack import Block, Embedding, Residual, Stack

FEEDFORWARDS = {"relu": (MLP, "relu"), "gated-gelu": (GLU, "gelu_tanh"), "gated-silu": (GLU, "silu")}


@dataclass(frozen=True)
class T5Config:
    """The honoured fields, under their names in config.json.

    num_decoder_layers: `num_layers` unless given.
    tie_word_embeddings: whether the head is the embedding table; hidden states are then divided by sqrt(d_model) first.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    decoder_start_token_id: int = 0
    eos_token_id: int | list[int] | None = 1
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
        check_sizes(self, (*sizes, "relative_attention_max_distance"), ("num_decoder_layers",))
        if self.feed_forward_proj not in FEEDFORWARDS:
            raise ValueError(f"feed_forward_proj = {self.feed_forward_proj!r} is not one of {', '.join(FEEDFORWARDS)}")
        buckets, longest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 4 or longest <= buckets // 2:
            raise ValueError(f"relative_attention_num_buckets = {buckets} is no multiple of 4 that {longest} goes with")


def dense(config: T5Config, decoder: bool, layer: int) -> nn.Module:
    """The same feed-forward in every layer, plain or gated."""
    kind, activation = FEEDFORWARDS[config.feed_forward_proj]
    return kind(config.d_model, config.d_ff, activation, dropout=config.dropout_rate)


def build(
    config: T5Config, family: str = "t5", feedforward: Callable[[Any, bool, int], nn.Module] = dense
) -> EncoderDecoderLM:
    """Pre-norm blocks with RMSNorm, scores that are not scaled, and one table of relative positions a stack.

    feedforward: makes that of a layer, given config, whether it is the decoder's, and the layer's number.
    """
    c = config

    def branch(fn: nn.Module) -> Residual:
        return Residual(fn, Norm(c.d_model, "rms", c.layer_norm_epsilon), dropout=c.dropout_rate)

    def attention(memory_dim: int | None = None) -> Residual:
        return branch(
            Attention(c.d_model, c.num_heads, head_dim=c.d_kv, scale=1.0, dropout=c.dropout_rate, memory_dim=memory_dim)
        )

    def stack(embed: Embedding, layers: int, decoder: bool) -> Stack:
        table = RelativeBias(
            c.num_heads, c.relative_attention_num_buckets, c.relative_attention_max_distance, both=not decoder
        )
        blocks = [
            Block(
                attention(),
                branch(feedforward(c, decoder, layer)),
                Bias(causal=decoder, term=table),
                attention(c.d_model) if decoder else None,
            )
            for layer in range(layers)
        ]
        return Stack(embed, blocks, Norm(c.d_model, "rms", c.layer_norm_epsilon), dropout=c.dropout_rate)

    embed = Embedding(c.vocab_size, c.d_model, dropout=c.dropout_rate)
    encoder = stack(embed, c.num_layers, decoder=False)
    written = Embedding(c.vocab_size, c.d_model, dropout=c.dropout_rate, tied=embed.tokens)
    body = stack(written, c.num_decoder_layers or c.num_layers, decoder=True)
    if c.tie_word_embeddings:
        head = LanguageHead(c.vocab_size, c.d_model, embed.tokens, scale=c.d_model**-0.5)
    else:
        head = LanguageHead(c.vocab_size, c.d_model)
    return EncoderDecoderLM(family, c, None, encoder, body, head, Frame(c.decoder_start_token_id))


def dense_keys(config: T5Config, decoder: bool, layer: int) -> dict[str, str]:
    """Of the feed-forward of a layer: names on disk, and ours."""
    wi = ("wi_0", "wi_1") if config.feed_forward_proj.startswith("gated") else ("wi",)
    return {f"DenseReluDense.{name}.weight": OURS[name] for name in (*wi, "wo")}


def keys(config: T5Config, feedforward: Callable[[Any, bool, int], dict[str, str]] = dense_keys) -> list[Entry]:
    """Branches are numbered; the table of relative positions lies with the first layer."""
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    tied = (*copies, "lm_head.weight") if config.tie_word_embeddings else copies
    entries = [Entry("shared.weight", ("encoder.embed.tokens",), copies=tied)]
    layers = {"encoder": config.num_layers, "decoder": config.num_decoder_layers or config.num_layers}
    for side, name in (("encoder", "encoder"), ("decoder", "body")):
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        entries.append(Entry(table, (f"{name}.terms.0.table",)))
        for i in range(layers[side]):
            branches = {"attention": _attention_keys("SelfAttention"), "cross": _attention_keys("EncDecAttention")}
            if side == "encoder":
                del branches["cross"]
            branches["feedforward"] = feedforward(config, side == "decoder", i)
            for number, (branch, tensors) in enumerate(branches.items()):
                disk, ours = f"{side}.block.{i}.layer.{number}", f"{name}.blocks.{i}.{branch}"
                entries.append(Entry(f"{disk}.layer_norm.weight", (f"{ours}.in_norm.weight",)))
                entries += [Entry(f"{disk}.{theirs}", (f"{ours}.fn.{own}",)) for theirs, own in tensors.items()]
        entries.append(Entry(f"{side}.final_layer_norm.weight", (f"{name}.final_norm.weight",)))
    if config.tie_word_embeddings:
        return entries
    return [*entries, Entry("lm_head.weight", ("head.weight",), fallback="shared.weight")]


def _attention_keys(name: str) -> dict[str, str]:
    return {f"{name}.{tensor}.weight": OURS[tensor] for tensor in "qkvo"}


OURS = {
    "q": "q.weight", "k": "k.weight", "v": "v.weight", "o": "output.weight",
    "wi": "input.weight", "wi_0": "gate.weight", "wi_1": "input.weight", "wo": "output.weight",
}  # fmt: skip


@torch.no_grad()
def initialise(model: EncoderDecoderLM) -> None:
    """N(0, 1 / inputs), the queries smaller by sqrt(d_kv) since scores are not scaled; embeddings and head N(0, 1)."""
    c, factor = model.config, model.config.initializer_factor
    normal(model, factor)
    for module in model.modules():
        if isinstance(module, Attention):
            for projection in (module.q, module.k, module.v, module.output):
                nn.init.normal_(projection.weight, std=factor * projection.weight.shape[1] ** -0.5)
            module.q.weight.mul_(c.d_kv**-0.5)
        elif isinstance(module, MLP | GLU):
            for projection in (module.input, module.output, *([module.gate] if isinstance(module, GLU) else [])):
                nn.init.normal_(projection.weight, std=factor * projection.weight.shape[1] ** -0.5)
        elif isinstance(module, RelativeBias):
            nn.init.normal_(module.table, std=factor * c.d_model**-0.5)
        elif isinstance(module, Norm) and module.weight is not None:
            nn.init.constant_(module.weight, factor)


def read(raw: Fields) -> Fields:
    """`transformers` 5 calls every head tied, and writes what decides under another name."""
    fields = dict(raw)
    scaled = fields.pop("scale_decoder_outputs", None)
    return fields if scaled is None else {**fields, "tie_word_embeddings": scaled}


def write(fields: Fields) -> Fields:
    """With what `transformers` 5 reads elsewhere."""
    return {"is_encoder_decoder": True, **fields, "scale_decoder_outputs": fields["tie_word_embeddings"]}


T5 = Family(
    name="t5",
    architecture="T5ForConditionalGeneration",
    config=T5Config,
    build=build,
    keys=keys,
    initialise=initialise,
    inert=(
        "classifier_dropout",
        "dense_act_fn",
        "is_gated_act",
        "n_positions",
        "output_past",
    ),
    default_only={"is_encoder_decoder": True},
    ignored_keys=(".EncDecAttention.relative_attention_bias.weight",),
    read=read,
    write=write,
)
