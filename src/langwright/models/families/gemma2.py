"""Gemma 2 (Google, 2024): Gemma with a norm before and after each branch, caps, and windows in every other layer."""

from dataclasses import replace
from functools import partial

from langwright.models.config import Fields
from langwright.models.families.gemma import GEMMA, GemmaConfig, build
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


def in_llama_cpp(fields: Fields) -> Fields:
    """What llama.cpp takes to be so in every file: the scale of scores, and layers that take turns."""
    fields = dict(fields)
    width, heads = fields.get("hidden_size", 0), fields.get("num_attention_heads", 1)
    fields["query_pre_attn_scalar"] = width / heads if fields.get("num_hidden_layers") == 46 else fields.get("head_dim")
    return fields


def differs(config: GemmaConfig) -> str | None:
    """The field in which llama.cpp differs."""
    usual = in_llama_cpp(vars(config) | {"head_dim": config.head_width})["query_pre_attn_scalar"]
    turns = tuple((SLIDING, FULL)[i % 2] for i in range(config.num_hidden_layers))
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    found = [name for name in caps if getattr(config, name) is None]
    found += [] if config.layer_types in (None, turns) else ["layer_types"]
    found += [] if config.query_pre_attn_scalar in (None, usual) else ["query_pre_attn_scalar"]
    return found[0] if found else None


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
        checks=differs,
        complete=in_llama_cpp,
    ),
    adapters=replace(GEMMA.adapters, norms=(*NORMS, "norm")),
)  # fmt: skip
