"""BERT (Devlin et al., 2018): post-norm blocks that see both sides, token types, and heads for what is asked of it."""

from dataclasses import dataclass

from langwright.models.config import ACTIVATIONS, Activation, Config, Count, Rate, ShapeFields, Size, Spread
from langwright.models.family import AdapterTargets, Family
from langwright.models.gguf.layout import GELU, Layout
from langwright.models.keymap import Entry, layers, names, within
from langwright.models.model import Model, stack
from langwright.models.task_heads import masked_head, pretraining_head, sequence_head, span_head, token_head
from langwright.parts import MLP, Attention, Bias, Embedding, Norm


@dataclass(frozen=True)
class BertConfig(Config):
    """The honoured fields, under their names in config.json. `classifier_dropout` None means hidden_dropout_prob.

    pad_token_id: where a family counts positions from it; `max_position_embeddings` then includes the rows before.
    """

    vocab_size: Size = 30522
    hidden_size: Size = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    classifier_dropout: Rate | None = None
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    initializer_range: Spread = 0.02
    layer_norm_eps: Rate = 1e-12
    pad_token_id: int | None = None

    shape = ShapeFields(gated=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context < 1:
            raise ValueError(f"max_position_embeddings = {self.max_position_embeddings} leaves no room for positions")

    @property
    def offset(self) -> int:
        """Rows at the front of the position table that stand for no position."""
        return 0 if self.pad_token_id is None else self.pad_token_id + 1

    @property
    def context(self) -> int:
        """The most positions of a text."""
        return self.max_position_embeddings - self.offset

    def norm(self) -> Norm:
        """A LayerNorm of the residual stream."""
        return Norm(self.hidden_size, "layer", self.layer_norm_eps, bias=True)

    def head_dropout(self) -> float:
        """The dropout before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


def build(config: BertConfig) -> Model:
    """Post-norm blocks without a final norm."""
    c = config
    positions, drop, activation = c.max_position_embeddings, c.attention_probs_dropout_prob, ACTIVATIONS[c.hidden_act]
    body = stack(
        Embedding(c.vocab_size, c.hidden_size, positions, c.hidden_dropout_prob, c.norm(), c.type_vocab_size, c.offset),
        c.num_hidden_layers,
        norm=c.norm,
        norms="post",
        attention=lambda layer: Attention(c.hidden_size, c.num_attention_heads, bias="qkvo", dropout=drop),
        feedforward=lambda layer: MLP(c.hidden_size, c.intermediate_size, activation, bias=True),
        bias=lambda layer: Bias(),
        dropout=c.hidden_dropout_prob,
    )
    return Model(body, config=c, task="hidden")


def keys(config: BertConfig, prefix: str = "bert") -> list[Entry]:
    """Every projection is a tensor of its own."""
    layer = {
        "attention.self.query": "attention.fn.q",
        "attention.self.key": "attention.fn.k",
        "attention.self.value": "attention.fn.v",
        "attention.output.dense": "attention.fn.output",
        "attention.output.LayerNorm": "attention.out_norm",
        "intermediate.dense": "feedforward.fn.input",
        "output.dense": "feedforward.fn.output",
        "output.LayerNorm": "feedforward.out_norm",
    }
    embeddings = {
        "word_embeddings.weight": "tokens",
        "position_embeddings.weight": "positions",
        "token_type_embeddings.weight": "types",
        "LayerNorm": "norm",
    }
    return [
        *within(f"{prefix}.embeddings", "body.embed", names(embeddings)),
        *layers(f"{prefix}.encoder.layer", names(layer)),
    ]


MASKED = masked_head("BertForMaskedLM", "cls.predictions", "transform.dense", "transform.LayerNorm")

BERT = Family(
    name="bert",
    architecture="BertModel",
    config=BertConfig,
    builder=build,
    keys=keys,
    task="hidden",
    heads={
        "masked": MASKED,
        "sequence": sequence_head("BertForSequenceClassification", "bert.pooler.dense", "classifier"),
        "token": token_head("BertForTokenClassification"),
        "span": span_head("BertForQuestionAnswering"),
        "pretraining": pretraining_head("BertForPreTraining", MASKED, "bert.pooler.dense", "cls.seq_relationship"),
    },
    absent=("pad_token_id",),
    inert=(
        "_num_labels", "directionality", "num_labels", "pooler_fc_size", "pooler_num_attention_heads",
        "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    ),
    default_only={"position_embedding_type": "absolute", "tie_word_embeddings": True},
    ignored_keys=("embeddings.position_ids",),
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    prefix="bert.",
    adapters=AdapterTargets(("query", "value"), ia3=("key", "value"), ia3_inputs=("output.dense",)),
    adapterhub="module",
    gguf=Layout(
        "bert",
        fields={"feed_forward_length": "intermediate_size", "attention.layer_norm_epsilon": "layer_norm_eps"},
        only={"hidden_act": GELU},
        constants={"attention.causal": False},
        sizes={"vocab_size": "token_embd.weight", "type_vocab_size": "token_types.weight"},
    ),
    rate=0.2,
    presets={
        "bert-base": {},
        "bert-large": {
            "num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096,
        },
    },
)  # fmt: skip
