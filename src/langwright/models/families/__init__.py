"""The one table of families."""

from langwright.models.families.bart import BART
from langwright.models.families.bert import BERT
from langwright.models.families.bloom import BLOOM
from langwright.models.families.cnn import CNN
from langwright.models.families.gemma import GEMMA
from langwright.models.families.gemma2 import GEMMA2
from langwright.models.families.gpt1 import GPT1
from langwright.models.families.gpt2 import GPT2
from langwright.models.families.gpt_neo import GPT_NEO
from langwright.models.families.gpt_neox import GPT_NEOX
from langwright.models.families.gptj import GPTJ
from langwright.models.families.llama import LLAMA
from langwright.models.families.lstm_attention import LSTM_ATTENTION
from langwright.models.families.marian import MARIAN
from langwright.models.families.mistral import MISTRAL
from langwright.models.families.mixtral import MIXTRAL
from langwright.models.families.mpt import MPT
from langwright.models.families.nanochat import NANOCHAT
from langwright.models.families.phi import PHI
from langwright.models.families.qwen2 import QWEN2
from langwright.models.families.qwen3 import QWEN3
from langwright.models.families.recurrent import GRU, LSTM, RNN
from langwright.models.families.roberta import ROBERTA
from langwright.models.families.series import series_family
from langwright.models.families.switch import SWITCH
from langwright.models.families.t5 import T5
from langwright.models.family import Family

DECODERS = (
    GPT1, GPT2, GPT_NEO, GPTJ, GPT_NEOX, BLOOM, MPT, PHI, LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3, GEMMA, GEMMA2,
    NANOCHAT,
)  # fmt: skip
CARRYING = (LSTM, GRU, RNN, CNN)
"""Decoders without attention, whose memory of a text has a fixed size."""
ENCODERS = (BERT, ROBERTA)
ENCODER_DECODERS = (T5, SWITCH, BART, MARIAN)
OWN_ENCODER_DECODERS = (LSTM_ATTENTION,)
"""Those without a class in `transformers`."""
FAMILIES: dict[str, Family] = {
    family.name: family for family in (*DECODERS, *CARRYING, *ENCODERS, *ENCODER_DECODERS, *OWN_ENCODER_DECODERS)
}
SERIES = series_family(FAMILIES)
ROWS = {**FAMILIES, SERIES.name: SERIES}
"""All by name, also those whose models are made of the layers of another family, and have no shape of their own."""
MODEL_TYPES = {family.model_type: family for family in ROWS.values()}
LANGUAGE = [family.name for family in (*DECODERS, *CARRYING)]
"""Those that are built to continue a text."""

LEARNERS: dict[str, tuple[Family, ...]] = {
    "causal": (LLAMA, *DECODERS, *CARRYING),
    "masked": ENCODERS,
    "prefix": ENCODER_DECODERS,
    "span": ENCODER_DECODERS,
    "denoise": (BART, *ENCODER_DECODERS),
    "seq2seq": (MARIAN, *ENCODER_DECODERS, *OWN_ENCODER_DECODERS),
}
"""The families that each objective of pretraining is for, the usual one first."""
