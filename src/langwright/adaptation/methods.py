"""The one table of methods."""

from langwright.adaptation.bottleneck import Adapters
from langwright.adaptation.ia3 import IA3
from langwright.adaptation.lora import LoRA
from langwright.adaptation.method import Method
from langwright.adaptation.own import BitFit, HeadOnly, LayerNorm
from langwright.adaptation.prefix import PrefixTuning
from langwright.adaptation.prompt import PromptTuning, PTuning

METHODS: dict[str, type[Method]] = {
    "lora": LoRA,
    "ia3": IA3,
    "prompt": PromptTuning,
    "p-tuning": PTuning,
    "prefix": PrefixTuning,
    "bottleneck": Adapters,
    "bitfit": BitFit,
    "layernorm": LayerNorm,
    "head": HeadOnly,
}
"""By the name that `--method` takes."""
