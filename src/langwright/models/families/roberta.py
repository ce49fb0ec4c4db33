"""RoBERTa (Liu et al., 2019): BERT with positions that begin after the padding id (fairseq), and heads of its own."""

from dataclasses import replace
from functools import partial

from langwright.models.families.bert import BERT, keys
from langwright.models.task_heads import masked_head, sequence_head, span_head, token_head

ROBERTA = replace(
    BERT,
    name="roberta",
    architecture="RobertaModel",
    keys=partial(keys, prefix="roberta"),
    heads={
        "masked": masked_head("RobertaForMaskedLM", "lm_head", "dense", "layer_norm", activation="gelu"),
        "sequence": sequence_head(
            "RobertaForSequenceClassification", "classifier.dense", "classifier.out_proj", drop_input=True
        ),
        "token": token_head("RobertaForTokenClassification"),
        "span": span_head("RobertaForQuestionAnswering"),
    },
    absent=(),
    defaults={"vocab_size": 50265, "pad_token_id": 1},
    dropped_keys=("roberta.pooler.",),
    prefix="roberta.",
    presets={},
    gguf=None,
)
