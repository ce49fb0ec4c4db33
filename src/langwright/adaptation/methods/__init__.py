"""The one table of methods; each is a file here: its settings, its modules, and its fields in PEFT's config."""

from langwright.adaptation.method import Method
from langwright.adaptation.methods.bitfit import BitFit
from langwright.adaptation.methods.bottleneck import Bottleneck
from langwright.adaptation.methods.head_only import HeadOnly
from langwright.adaptation.methods.ia3 import IA3
from langwright.adaptation.methods.lora import LoRA
from langwright.adaptation.methods.norm_tuning import LayerNorm
from langwright.adaptation.methods.p_tuning import PTuning
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.adaptation.methods.prompt_tuning import PromptTuning

METHODS: dict[str, type[Method]] = {
    "lora": LoRA,
    "ia3": IA3,
    "prompt": PromptTuning,
    "p-tuning": PTuning,
    "prefix": PrefixTuning,
    "bottleneck": Bottleneck,
    "bitfit": BitFit,
    "layernorm": LayerNorm,
    "head": HeadOnly,
}
"""By the name that `--method` takes."""
