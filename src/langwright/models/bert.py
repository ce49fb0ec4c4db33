"""BERT (Devlin et al., 2018): post-norm blocks that see both sides, token types, and heads for what is asked of it."""

from dataclasses import dataclass

from torch import nn

from langwright.models.checks import ACTIVATIONS
from langwright.models.encoder import Encoder
from langwright.models.family import Family, Head, check_sizes
from langwright.models.initialise import normal
from langwright.models.keymap import Entry
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.heads import HiddenHead, MaskedHead, SequenceHead, TokenHead
from langwright.parts.norms import Norm
from langwright.parts.stack import Block, Embedding, Residual, Stack

KINDS = ("weight", "bias")


@dataclass(frozen=True)
class BertConfig:
    """The honoured fields, under their names in config.json. `classifier_dropout` None means hidden_dropout_prob.

    pad_token_id: where a family counts positions from it; `max_position_embeddings` then includes the rows before.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        check_sizes(self, (*sizes, "max_position_embeddings", "type_vocab_size"))
        if self.offset >= self.max_position_embeddings:
            raise ValueError(f"max_position_embeddings = {self.max_position_embeddings} leaves no room for positions")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size = {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act = {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")

    @property
    def offset(self) -> int:
        """Rows at the front of the position table that stand for no position."""
        return 0 if self.pad_token_id is None else self.pad_token_id + 1

    def norm(self) -> Norm:
        """A LayerNorm of the residual stream."""
        return Norm(self.hidden_size, "layer", self.layer_norm_eps, bias=True)

    def head_dropout(self) -> float:
        """The dropout before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


def build(config: BertConfig, family: str = "bert") -> Encoder:
    """Post-norm blocks without a final norm."""
    c = config

    def block() -> Block:
        attention = Attention(c.hidden_size, c.num_attention_heads, bias="qkvo", dropout=c.attention_probs_dropout_prob)
        mlp = MLP(c.hidden_size, c.intermediate_size, ACTIVATIONS[c.hidden_act], bias=True)
        return Block(
            Residual(attention, out_norm=c.norm(), dropout=c.hidden_dropout_prob),
            Residual(mlp, out_norm=c.norm(), dropout=c.hidden_dropout_prob),
            Bias(),
        )

    positions, dropout = c.max_position_embeddings, c.hidden_dropout_prob
    embed = Embedding(c.vocab_size, c.hidden_size, positions, dropout, c.norm(), c.type_vocab_size, c.offset)
    body = Stack(embed, [block() for _ in range(c.num_hidden_layers)], None)
    return Encoder(family, "hidden", c, positions - c.offset, body, HiddenHead())


def keys(config: BertConfig, prefix: str = "bert.") -> list[Entry]:
    """Every projection is a tensor of its own."""
    table = f"{prefix}embeddings"
    entries = [
        Entry(f"{table}.word_embeddings.weight", ("body.embed.tokens",)),
        Entry(f"{table}.position_embeddings.weight", ("body.embed.positions",)),
        Entry(f"{table}.token_type_embeddings.weight", ("body.embed.types",)),
        *pairs(f"{table}.LayerNorm", "body.embed.norm"),
    ]
    for i in range(config.num_hidden_layers):
        disk, attention, mlp = (
            f"{prefix}encoder.layer.{i}",
            f"body.blocks.{i}.attention",
            f"body.blocks.{i}.feedforward",
        )
        entries += pairs(f"{disk}.attention.self.query", f"{attention}.fn.q")
        entries += pairs(f"{disk}.attention.self.key", f"{attention}.fn.k")
        entries += pairs(f"{disk}.attention.self.value", f"{attention}.fn.v")
        entries += pairs(f"{disk}.attention.output.dense", f"{attention}.fn.output")
        entries += pairs(f"{disk}.attention.output.LayerNorm", f"{attention}.out_norm")
        entries += pairs(f"{disk}.intermediate.dense", f"{mlp}.fn.input")
        entries += pairs(f"{disk}.output.dense", f"{mlp}.fn.output")
        entries += pairs(f"{disk}.output.LayerNorm", f"{mlp}.out_norm")
    return entries


def pairs(disk: str, ours: str) -> list[Entry]:
    """The weight and the bias of one module."""
    return [Entry(f"{disk}.{kind}", (f"{ours}.{kind}",)) for kind in KINDS]


def masked(config: BertConfig, tokens: nn.Parameter, activation: str | None = None) -> MaskedHead:
    """The head of masked language modelling; its activation is that of the blocks unless given."""
    return MaskedHead(config.hidden_size, activation or ACTIVATIONS[config.hidden_act], config.norm(), tokens)


CLASSIFIER = ("classifier.weight", "classifier.bias")


def token_heads(family: str) -> dict[str, Head]:
    """The heads that answer for every token: one of the labels, or where an answer begins and ends."""
    return {
        "token": Head(
            f"{family}ForTokenClassification",
            lambda c, tokens, labels: TokenHead(c.hidden_size, labels, c.head_dropout()),
            lambda c: pairs("classifier", "head.output"),
            labelled=CLASSIFIER,
        ),
        "span": Head(
            f"{family}ForQuestionAnswering",
            lambda c, tokens, labels: TokenHead(c.hidden_size, 2),
            lambda c: pairs("qa_outputs", "head.output"),
        ),
    }


INERT = (
    "_num_labels",
    "directionality",
    "num_labels",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
)
BERT = Family(
    name="bert",
    architecture="BertModel",
    config=BertConfig,
    build=build,
    keys=keys,
    initialise=lambda model: normal(model, model.config.initializer_range),
    task="hidden",
    heads={
        "masked": Head(
            "BertForMaskedLM",
            lambda c, tokens, labels: masked(c, tokens),
            lambda c: [
                *pairs("cls.predictions.transform.dense", "head.dense"),
                *pairs("cls.predictions.transform.LayerNorm", "head.norm"),
                Entry("cls.predictions.bias", ("head.bias",)),
            ],
            copies={
                "cls.predictions.decoder.weight": "body.embed.tokens",
                "cls.predictions.decoder.bias": "head.bias",
            },
        ),
        "sequence": Head(
            "BertForSequenceClassification",
            lambda c, tokens, labels: SequenceHead(c.hidden_size, labels, dropout=c.head_dropout()),
            lambda c: [*pairs("bert.pooler.dense", "head.dense"), *pairs("classifier", "head.output")],
            labelled=CLASSIFIER,
        ),
        **token_heads("Bert"),
    },
    absent=("pad_token_id",),
    inert=INERT,
    default_only={"position_embedding_type": "absolute", "tie_word_embeddings": True},
    ignored_keys=("embeddings.position_ids",),
    dropped_keys=("cls.seq_relationship.",),
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    prefix="bert.",
)
