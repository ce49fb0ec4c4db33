"""The one table of methods."""

from langwright.adaptation.lora import LoRA
from langwright.adaptation.method import Method

METHODS: dict[str, type[Method]] = {"lora": LoRA}
"""By the name that `--method` takes."""
