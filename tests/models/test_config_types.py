"""A field of config.json of another type is refused by file and field, or loads with the logits of `transformers`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.oracles import CASES, oracle, random_ids, small_config

from langwright import load_model
from langwright.base.errors import UserError
from langwright.base.value_types import fits
from langwright.models.families import FAMILIES
from langwright.models.family import READ_TYPES

ODD = ("1e-06", "false", "2.0", "", None, True, 0, 3, 2.0, 1.5, -1, 10**25, [], ["a"], {}, {"a": 1}, float("nan"))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_field(name: str) -> None:
    """Whatever a field holds: an error that names file and field, or a model that is built."""
    family = FAMILIES[name]
    fields = json.loads(json.dumps(family.dump(small_config(name))))
    types = READ_TYPES | family.honoured()
    for field in {*fields, *types} - {"model_type"}:
        for value in ODD:
            wrong = field in types and (value != value or not fits(value, types[field]))
            try:
                read = family.parse({**fields, field: value}, "a/config.json")
            except UserError as error:
                assert "a/config.json" in str(error)
                assert not wrong or field in str(error) or "rope_parameters" in str(error), (field, value, str(error))
                continue
            assert not wrong, (field, value)
            with torch.device("meta"):
                family.initialise(family.build(read))


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("llama", {"rms_norm_eps": "1e-06"}),
        ("llama", {"rms_norm_eps": None}),
        ("llama", {"tie_word_embeddings": "false"}),
        ("llama", {"attention_bias": "false"}),
        ("llama", {"attention_dropout": None}),
        ("llama", {"attention_dropout": 0}),
        ("llama", {"num_key_value_heads": "2"}),
        ("llama", {"head_dim": 8.0}),
        ("llama", {"rope_theta": "10000"}),
        ("llama", {"rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": "2.0"}}),
        ("llama", {"rope_parameters": None, "rope_scaling": "linear"}),
        ("llama", {"rope_parameters": None, "rope_scaling": None, "rope_theta": 50}),
        ("mistral", {"sliding_window": "5"}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": "false"}),
        ("qwen2", {"max_window_layers": "1"}),
        ("qwen2", {"num_hidden_layers": "3"}),
        ("gpt2", {"n_inner": None}),
        ("gpt2", {"layer_norm_epsilon": "1e-05"}),
        ("gpt_neo", {"attention_types": [["global", "local"], 1]}),
        ("gpt_neo", {"attention_types": "global"}),
        ("gemma2", {"final_logit_softcapping": "2.0"}),
        ("mpt", {"attn_config": {"clip_qkv": "0.7"}}),
        ("mpt", {"attn_config": "alibi"}),
    ],
    ids=str,
)
def test_equal_or_refused(case: str, changes: dict[str, Any], tmp_path: Path) -> None:
    oracle(CASES[case]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    ids = random_ids(2, 14)
    try:
        ours = load_model(tmp_path)(ids)
    except UserError as error:
        assert str(path) in str(error)
        assert any(field in str(error) for field in (*changes, "rope_parameters", "clip_qkv"))
        return
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert (ours - theirs(ids).logits).abs().max() <= 1e-4
