"""The one table of families."""

from langwright.models.bert import BERT
from langwright.models.family import Family
from langwright.models.gpt2 import GPT2
from langwright.models.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from langwright.models.nanochat import NANOCHAT
from langwright.models.roberta import ROBERTA

FAMILIES: dict[str, Family] = {
    family.name: family for family in (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, NANOCHAT, BERT, ROBERTA)
}
LANGUAGE = [name for name, family in FAMILIES.items() if family.task == "language"]
"""Those that are built to continue a text."""
