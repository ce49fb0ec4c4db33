"""The one table of families."""

from langwright.models.family import Family
from langwright.models.gpt2 import GPT2
from langwright.models.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from langwright.models.nanochat import NANOCHAT

FAMILIES: dict[str, Family] = {family.name: family for family in (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, NANOCHAT)}
