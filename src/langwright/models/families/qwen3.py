"""Qwen3 (Alibaba, 2025): Qwen2 without biases, with a norm of each head of q and k, and heads of their own width."""

from dataclasses import replace
from functools import partial

from langwright.models.families.llama import GGUF_FIELDS, build, sizes
from langwright.models.families.qwen2 import QWEN2
from langwright.models.gguf.layout import Layout
from langwright.models.task_heads import causal_heads

QWEN3 = replace(
    QWEN2,
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    builder=partial(build, qk_norm=True),
    heads=causal_heads("Qwen3", span_prefix="transformer."),
    absent=("mlp_bias",),
    defaults={**QWEN2.defaults, "head_dim": 128},
    default_only={},
    gguf=Layout("qwen3", fields=GGUF_FIELDS, only={"hidden_act": ("silu",), "attention_bias": (False,)}),
    presets={
        "qwen3-0.6b": sizes(
            28, 1024, 16, 8, 3072, max_position_embeddings=40960, tie_word_embeddings=True,
            rope_parameters={"rope_theta": 1e6},
        ),
    },
)  # fmt: skip
