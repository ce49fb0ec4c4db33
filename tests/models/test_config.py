"""config.json: read as `transformers` reads it, written so that nothing is lost."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.models.families import DECODERS, ENCODERS, FAMILIES
from langwright.models.families.bert import BertConfig
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.gpt_neo import GPTNeoConfig
from langwright.models.families.llama import LlamaConfig
from langwright.models.families.nanochat import NanoChatConfig
from langwright.models.shapes import PRESETS, by_depth
from oracles import LINEAR, LLAMA3, classes, published

ONE_STACK = [family.name for family in (*DECODERS, *ENCODERS)]
HUB = {
    "gpt2": "gpt2",
    "tinyllama-1.1b": "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
    "bloom-560m": "bigscience/bloom-560m",
    "mpt-7b": "mosaicml/mpt-7b",
}
"""Presets, and models on the Hub of the same shape."""
WIDTHS = ("head_dim", "layer_types", "attention_layers", "rope_parameters", "n_inner", "num_key_value_heads")
"""Fields that may be left to others; what they come to is compared instead."""


def meaning(config: Any) -> dict[str, Any]:
    """What a config says, however it is spelt."""
    plain = {name: value for name, value in dataclasses.asdict(config).items() if name not in WIDTHS}
    if isinstance(config, GPT2Config):
        return plain | {"n_inner": config.n_inner or 4 * config.n_embd}
    if isinstance(config, BertConfig):
        return plain
    if hasattr(config, "rope"):
        plain["rope"] = config.rope()
    if hasattr(config, "num_key_value_heads"):
        plain["kv_heads"] = config.num_key_value_heads or config.num_attention_heads
    if isinstance(config, GPTNeoConfig):
        return plain | {"windows": [config.window(layer) for layer in range(config.num_layers)]}
    if isinstance(config, LlamaConfig):
        plain.pop("sliding_window")  # means something only where a layer has a window
        plain["windows"] = [config.window(layer) for layer in range(config.num_hidden_layers)]
    return plain


@pytest.mark.parametrize("name", HUB)
def test_published_configs(name: str) -> None:
    family, config = PRESETS[name]
    assert meaning(FAMILIES[family].parse(published(HUB[name]), name)) == meaning(config)


@pytest.mark.parametrize("family", ONE_STACK)
@pytest.mark.parametrize("written", [False, True])
def test_what_a_file_leaves_out_is_as_in_transformers(family: str, written: bool) -> None:
    theirs = classes(family)[0]()
    parsed = FAMILIES[family].parse(json.loads(theirs.to_json_string(use_diff=False)) if written else {}, "there")
    compared = dataclasses.asdict(parsed).keys() - {*WIDTHS, *FAMILIES[family].absent, "seq_length"}
    nested = getattr(theirs, "attn_config", None)
    expected = {name: getattr(nested if hasattr(nested, name) else theirs, name) for name in compared}
    assert {name: getattr(parsed, name) for name in compared} == expected
    if hasattr(parsed, "rope") and not isinstance(parsed, LlamaConfig):
        assert parsed.rope().theta == theirs.rope_parameters["rope_theta"]
        share = theirs.rope_parameters.get("partial_rotary_factor", 1)
        assert parsed.rope().head_dim == theirs.hidden_size // theirs.num_attention_heads * share
    if isinstance(parsed, GPTNeoConfig):
        local = [layer == "local" for layer in theirs.attention_layers]
        assert [parsed.window(i) is not None for i in range(parsed.num_layers)] == local
    if family == "gemma2":
        sliding = [kind == "sliding_attention" for kind in theirs.layer_types]
        assert [parsed.window(i) == 4096 for i in range(parsed.num_hidden_layers)] == sliding
    if isinstance(parsed, LlamaConfig):
        assert (parsed.num_key_value_heads or parsed.num_attention_heads) == theirs.num_key_value_heads
        assert parsed.rope().theta == theirs.rope_parameters["rope_theta"]
        assert parsed.rope().head_dim == (getattr(theirs, "head_dim", None) or 128)


def test_windows_of_qwen() -> None:
    raw = {"use_sliding_window": True, "num_hidden_layers": 4, "max_window_layers": 3}
    for family in ("qwen2", "qwen3"):
        parsed = FAMILIES[family].parse(raw, "there")
        theirs = classes(family)[0](**raw)
        assert [parsed.window(layer) for layer in range(4)] == [None, None, None, 4096]
        assert [kind == "sliding_attention" for kind in theirs.layer_types] == [False, False, False, True]
        off = FAMILIES[family].parse(raw | {"use_sliding_window": False, "sliding_window": 7}, "there")
        assert [off.window(layer) for layer in range(4)] == [None] * 4


CHANGES: dict[str, list[dict[str, Any]]] = {
    "openai-gpt": [{"afn": "silu"}],
    "gpt_neo": [{"intermediate_size": 7, "window_size": 3}],
    "gptj": [{"rotary_dim": 8, "n_inner": 5, "tie_word_embeddings": True}],
    "gpt_neox": [{"use_parallel_residual": False}, {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}],
    "bloom": [{"layer_norm_epsilon": 0.5}],
    "mpt": [{"clip_qkv": 2.0, "softmax_scale": 0.5}],
    "phi": [{"qk_layernorm": True}, {"rope_parameters": LINEAR}],
    "mixtral": [{"num_local_experts": 3, "num_experts_per_tok": 1}, {"sliding_window": 3}],
    "gemma": [{"head_dim": 4, "attention_bias": True}],
    "gemma2": [{"attn_logit_softcapping": None}, {"sliding_window": 3, "layer_types": None}],
}
"""Fields that a config of the dial may have otherwise."""


def some_config(draw: Callable[[st.SearchStrategy[Any]], Any]) -> tuple[str, Any]:
    """A family and one of its possible configs."""
    family = draw(st.sampled_from(ONE_STACK))
    layers, heads = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 6]))
    rates = st.sampled_from([0.0, 0.1])
    if FAMILIES[family].config is BertConfig:
        return family, BertConfig(
            num_hidden_layers=layers, num_attention_heads=heads, hidden_size=8 * heads,
            pad_token_id=draw(st.integers(0, 3)) if family == "roberta" else None, hidden_dropout_prob=draw(rates),
            classifier_dropout=draw(st.sampled_from([None, 0.3])), type_vocab_size=draw(st.integers(1, 2)),
        )  # fmt: skip
    if family == "nanochat":
        return family, NanoChatConfig(
            num_hidden_layers=layers, num_attention_heads=heads, hidden_size=8 * heads,
            num_key_value_heads=draw(st.sampled_from([None, 1, heads])), attention_dropout=draw(rates),
            rope_parameters=draw(st.sampled_from([None, {"rope_theta": 5.0}, LINEAR])),
            final_logit_softcapping=draw(st.sampled_from([None, 3.0])),
        )  # fmt: skip
    if family not in ("gpt2", "llama", "mistral", "qwen2", "qwen3"):
        dial = by_depth(family, layers, draw(st.integers(1, 99)), 32, draw(rates), width=64 * heads)
        return family, dataclasses.replace(dial, **draw(st.sampled_from([{}, *CHANGES.get(family, [])])))
    if family == "gpt2":
        return family, GPT2Config(
            vocab_size=draw(st.integers(1, 99)), n_layer=layers, n_head=heads, n_embd=8 * heads,
            n_inner=draw(st.sampled_from([None, 5])), activation_function=draw(st.sampled_from(["gelu_new", "relu"])),
            resid_pdrop=draw(rates), embd_pdrop=draw(rates), attn_pdrop=draw(rates),
        )  # fmt: skip
    config = LlamaConfig(
        num_hidden_layers=layers, num_attention_heads=heads, hidden_size=8 * heads,
        num_key_value_heads=draw(st.sampled_from([None, 1, heads])),
        rope_parameters=draw(st.sampled_from([None, {"rope_theta": 5.0}, LINEAR, LLAMA3])),
        attention_dropout=draw(rates), tie_word_embeddings=draw(st.booleans()),
    )  # fmt: skip
    window = draw(st.sampled_from([None, 3]))
    kinds = st.sampled_from(["sliding_attention", "full_attention"])
    changes: dict[str, Any] = {
        "head_dim": draw(st.sampled_from([None, 4])),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "sliding_window": window,
        "layer_types": tuple(draw(st.lists(kinds, min_size=layers, max_size=layers))) if window else None,
    }
    own = {name: value for name, value in changes.items() if name not in FAMILIES[family].absent}
    if family == "qwen3":
        own["head_dim"] = own["head_dim"] or 4
    return family, dataclasses.replace(config, **own)


@given(st.data())
def test_what_is_written_is_read_back(data: st.DataObject) -> None:
    family, config = some_config(data.draw)
    written = json.loads(json.dumps(FAMILIES[family].dump(config)))
    assert (written["model_type"], written["architectures"]) == (family, [FAMILIES[family].architecture])
    assert meaning(FAMILIES[family].parse(written, "there")) == meaning(config)
