"""Mistral (Jiang et al., 2023): LLaMA in which every layer sees a window."""

from dataclasses import replace

from langwright.models.families.llama import LLAMA, sizes
from langwright.models.task_heads import causal_heads

MISTRAL = replace(
    LLAMA,
    name="mistral",
    architecture="MistralForCausalLM",
    heads=causal_heads("Mistral"),
    absent=("attention_bias", "mlp_bias", "layer_types"),
    defaults={
        "sliding_window": 4096, "intermediate_size": 14336, "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    default_only={},
    presets={"mistral-7b": sizes(32, 4096, 32, 8, 14336, rms_norm_eps=1e-5, max_position_embeddings=32768)},
)  # fmt: skip
