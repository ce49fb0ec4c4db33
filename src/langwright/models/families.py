"""The one table of families."""

from langwright.models.bart import BART
from langwright.models.bert import BERT
from langwright.models.bloom import BLOOM
from langwright.models.family import Family
from langwright.models.gemma import GEMMA
from langwright.models.gemma2 import GEMMA2
from langwright.models.gpt1 import GPT1
from langwright.models.gpt2 import GPT2
from langwright.models.gpt_neo import GPT_NEO
from langwright.models.gpt_neox import GPT_NEOX
from langwright.models.gptj import GPTJ
from langwright.models.llama import LLAMA
from langwright.models.marian import MARIAN
from langwright.models.mistral import MISTRAL
from langwright.models.mixtral import MIXTRAL
from langwright.models.mpt import MPT
from langwright.models.nanochat import NANOCHAT
from langwright.models.phi import PHI
from langwright.models.qwen2 import QWEN2
from langwright.models.qwen3 import QWEN3
from langwright.models.roberta import ROBERTA
from langwright.models.switch import SWITCH
from langwright.models.t5 import T5

DECODERS = (
    GPT1,
    GPT2,
    GPT_NEO,
    GPTJ,
    GPT_NEOX,
    BLOOM,
    MPT,
    PHI,
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN3,
    GEMMA,
    GEMMA2,
    NANOCHAT,
)
ENCODERS = (BERT, ROBERTA)
ENCODER_DECODERS = (T5, SWITCH, BART, MARIAN)
FAMILIES: dict[str, Family] = {family.name: family for family in (*DECODERS, *ENCODERS, *ENCODER_DECODERS)}
LANGUAGE = [family.name for family in DECODERS]
"""Those that are built to continue a text."""
