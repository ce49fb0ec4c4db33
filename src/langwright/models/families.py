"""The one table of families."""

from langwright.models.bart import BART, MARIAN
from langwright.models.family import Family
from langwright.models.gpt2 import GPT2
from langwright.models.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from langwright.models.nanochat import NANOCHAT
from langwright.models.t5 import T5

DECODERS: dict[str, Family] = {family.name: family for family in (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, NANOCHAT)}
ENCODER_DECODERS: dict[str, Family] = {family.name: family for family in (T5, BART, MARIAN)}
FAMILIES: dict[str, Family] = {**DECODERS, **ENCODER_DECODERS}
