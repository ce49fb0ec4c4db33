"""BERT (Devlin et al., 2018): post-norm blocks that see both sides, token types, and heads for what is asked of it."""

from dataclasses import dataclass

from langwright.models.checks import ACTIVATIONS, check_choice, check_heads, check_sizes
from langwright.models.family import AdapterTargets, Family, ShapeFields
from langwright.models.keymap import Entry, affine, affines, numbered
from langwright.models.model import Model
from langwright.models.task_heads import masked_head, sequence_head, span_head, token_head
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import MLP
from langwright.parts.norms import Norm
from langwright.parts.stack import Block, Embedding, Residual, Stack


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
        check_heads(self, "hidden_size", "num_attention_heads")
        check_choice(self, "hidden_act")

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


def build(config: BertConfig, family: str = "bert") -> Model:
    """Post-norm blocks without a final norm."""
    c = config

    def block() -> Block:
        attention = Attention(c.hidden_size, c.num_attention_heads, bias="qkvo", dropout=c.attention_probs_dropout_prob)
        mlp = MLP(c.hidden_size, c.intermediate_size, ACTIVATIONS[c.hidden_act], bias=True)
        first, second = (Residual(fn, out_norm=c.norm(), dropout=c.hidden_dropout_prob) for fn in (attention, mlp))
        return Block(first, second, Bias())

    positions, dropout = c.max_position_embeddings, c.hidden_dropout_prob
    embed = Embedding(c.vocab_size, c.hidden_size, positions, dropout, c.norm(), c.type_vocab_size, c.offset)
    body = Stack(embed, [block() for _ in range(c.num_hidden_layers)], None)
    return Model(body, family=family, config=c, context=positions - c.offset, task="hidden")


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
    table = f"{prefix}.embeddings"
    return [
        Entry(f"{table}.word_embeddings.weight", ("body.embed.tokens",)),
        Entry(f"{table}.position_embeddings.weight", ("body.embed.positions",)),
        Entry(f"{table}.token_type_embeddings.weight", ("body.embed.types",)),
        *affine(f"{table}.LayerNorm", "body.embed.norm"),
        *numbered(config.num_hidden_layers, f"{prefix}.encoder.layer", affines(layer)),
    ]


BERT = Family(
    name="bert",
    architecture="BertModel",
    config=BertConfig,
    build=build,
    keys=keys,
    task="hidden",
    heads={
        "masked": masked_head("BertForMaskedLM", "cls.predictions", "transform.dense", "transform.LayerNorm"),
        "sequence": sequence_head("BertForSequenceClassification", "bert.pooler.dense", "classifier"),
        "token": token_head("BertForTokenClassification"),
        "span": span_head("BertForQuestionAnswering"),
    },
    absent=("pad_token_id",),
    inert=(
        "_num_labels", "directionality", "num_labels", "pooler_fc_size", "pooler_num_attention_heads",
        "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    ),
    default_only={"position_embedding_type": "absolute", "tie_word_embeddings": True},
    ignored_keys=("embeddings.position_ids",),
    dropped_keys=("cls.seq_relationship.",),
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    prefix="bert.",
    adapters=AdapterTargets(lora=("query", "value"), ia3=("key", "value"), ia3_inputs=("output.dense",)),
    adapterhub="module",
    shape=ShapeFields(gated=False),
    presets={
        "bert-base": {},
        "bert-large": {
            "num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096,
        },
    },
)  # fmt: skip
