"""Gemma 2 (Google, 2024): Gemma with a norm before and after each branch, caps, and windows in every other layer."""

from dataclasses import replace
from functools import partial

from langwright.models.config import Fields
from langwright.models.families.gemma import GEMMA, build
from langwright.models.families.llama import FULL, GGUF_FIELDS, SLIDING, keys
from langwright.models.gguf.layout import TIED, Layout
from langwright.models.task_heads import causal_heads

NORMS = {
    "input_layernorm": "attention.in_norm",
    "post_attention_layernorm": "attention.res_norm",
    "pre_feedforward_layernorm": "feedforward.in_norm",
    "post_feedforward_layernorm": "feedforward.res_norm",
}


def read(raw: Fields) -> Fields:
    """As Gemma's; unless the file says otherwise, layers see a window and everything in turns."""
    fields = GEMMA.read(raw)
    if fields.get("layer_types") is None:
        fields["layer_types"] = tuple((SLIDING, FULL)[i % 2] for i in range(fields.get("num_hidden_layers", 26)))
    return fields


GEMMA2 = replace(
    GEMMA,
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    heads=causal_heads("Gemma2", without=("span",)),
    builder=partial(build, sandwich=True),
    keys=partial(keys, norms=NORMS),
    absent=("hidden_act", "mlp_bias"),
    defaults={
        **GEMMA.defaults, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 4096, "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    },
    inert=("cache_implementation", "sliding_window_size"),
    read=read,
    gguf=Layout(
        "gemma2",
        fields={
            **GGUF_FIELDS, "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
        },
        only={"attention_bias": (False,), TIED: (True,)},
        plus_one=True,
        windows=True,
    ),
    adapters=replace(GEMMA.adapters, norms=(*NORMS, "norm")),
)  # fmt: skip
