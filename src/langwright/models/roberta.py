"""RoBERTa (Liu et al., 2019): BERT with positions that begin after the padding id (fairseq), and heads of its own."""

from langwright.models import bert
from langwright.models.bert import BertConfig, pairs
from langwright.models.family import Family, Head
from langwright.models.initialise import normal
from langwright.models.keymap import Entry
from langwright.parts.heads import SequenceHead

ROBERTA = Family(
    name="roberta",
    architecture="RobertaModel",
    config=BertConfig,
    build=lambda config: bert.build(config, "roberta"),
    keys=lambda config: bert.keys(config, "roberta."),
    initialise=lambda model: normal(model, model.config.initializer_range),
    task="hidden",
    heads={
        "masked": Head(
            "RobertaForMaskedLM",
            lambda c, tokens, labels: bert.masked(c, tokens, "gelu"),
            lambda c: [
                *pairs("lm_head.dense", "head.dense"),
                *pairs("lm_head.layer_norm", "head.norm"),
                Entry("lm_head.bias", ("head.bias",)),
            ],
            copies={"lm_head.decoder.weight": "body.embed.tokens", "lm_head.decoder.bias": "head.bias"},
        ),
        "sequence": Head(
            "RobertaForSequenceClassification",
            lambda c, tokens, labels: SequenceHead(
                c.hidden_size, labels, dropout=c.head_dropout(), input_dropout=c.head_dropout()
            ),
            lambda c: [*pairs("classifier.dense", "head.dense"), *pairs("classifier.out_proj", "head.output")],
            labelled=("classifier.out_proj.weight", "classifier.out_proj.bias"),
        ),
        **bert.token_heads("Roberta"),
    },
    defaults={"vocab_size": 50265, "pad_token_id": 1},
    inert=bert.INERT,
    default_only={"position_embedding_type": "absolute", "tie_word_embeddings": True},
    ignored_keys=("embeddings.position_ids",),
    dropped_keys=("roberta.pooler.",),
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    prefix="roberta.",
)
