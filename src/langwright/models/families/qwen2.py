"""Qwen2 (Alibaba, 2024): LLaMA with biases of q, k and v; a switch and a layer say where windows begin."""

from dataclasses import replace
from functools import partial

from langwright.models.config import Fields
from langwright.models.families.llama import FULL, GGUF_FIELDS, LLAMA, SLIDING, build, sizes
from langwright.models.gguf.layout import Layout
from langwright.models.task_heads import causal_heads


def read(raw: Fields) -> Fields:
    """Windows: `use_sliding_window` switches them on, from layer `max_window_layers` upward."""
    fields = LLAMA.read(raw)
    used, first = fields.pop("use_sliding_window", False), fields.pop("max_window_layers", 28)
    if not used:
        fields["sliding_window"] = None
    elif fields.setdefault("sliding_window", 4096) is not None and fields.get("layer_types") is None:
        layers = fields.get("num_hidden_layers", 32)
        fields["layer_types"] = tuple(SLIDING if i >= first else FULL for i in range(layers))
    return fields


def write(fields: Fields) -> Fields:
    """Both spellings of the windows."""
    types = list(fields["layer_types"] or [FULL] * fields["num_hidden_layers"])
    first = types.index(SLIDING) if SLIDING in types else len(types)
    windows = {"use_sliding_window": SLIDING in types, "max_window_layers": first, "layer_types": types}
    return {**LLAMA.write(fields), **windows}


QWEN2 = replace(
    LLAMA,
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    builder=partial(build, bias="qkv"),
    heads=causal_heads("Qwen2", span_prefix="transformer."),
    absent=("attention_bias", "mlp_bias", "head_dim"),
    defaults={
        "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "max_position_embeddings": 32768,
    },
    default_only={"use_mrope": False},
    read=read,
    write=write,
    gguf=Layout("qwen2", fields=GGUF_FIELDS, only={"hidden_act": ("silu",)}),
    adapters=replace(LLAMA.adapters, ia3=("q_proj", "v_proj"), norms=("post_attention_layernorm",)),
    presets={
        "qwen2-0.5b": sizes(24, 896, 14, 2, 4864, tie_word_embeddings=True, rope_parameters={"rope_theta": 1e6}),
    },
)  # fmt: skip
