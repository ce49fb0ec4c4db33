"""Models as they lie on the Hub: their config.json is understood, their size is the published one, their files load."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from langwright import load_model
from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.folder import OpenedFolder
from oracles import CASES, PUBLISHED, oracle, published
from refusals import refused

POOLER = {"sentence-transformers/all-MiniLM-L6-v2": 147_840}
"""What lies in a file beside the model that is built of it."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_gives_the_published_size(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(published(name)))
    opened = OpenedFolder(tmp_path)
    family, config, task = opened.family, opened.config, opened.task
    with torch.device("meta"):
        model = tasks.build(family, config, task)
    assert sum(p.numel() for p in model.parameters()) + POOLER.get(name, 0) == PUBLISHED[name]["parameters"]
    again = family.parse(json.loads(json.dumps(family.dump(config))), "written")
    with torch.device("meta"):
        assert str(tasks.build(family, again, task)) == str(model)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_field_more_is_refused_by_name(name: str) -> None:
    raw = published(name)
    family = FAMILIES[raw["model_type"]]
    with refused(name, '"residual_temperature"', family.name):
        family.parse({**raw, "residual_temperature": 0.5}, name)


REFUSED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 128, "hidden_size": 2048,
    },
    "microsoft/phi-2, first edition": {
        "_name_or_path": "./phi-2",
        "architecture": {"block_cls": "parallel", "mlp": {"mlp_cls": "fused_mlp"}},
        "architectures": ["MixFormerSequentialForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_mixformer_sequential.MixFormerSequentialConfig"},
        "model_type": "mixformer-sequential",
    },
}  # fmt: skip
"""The telling part of real configs that ask for what is not built here, or for code of their own."""


@pytest.mark.parametrize("name", REFUSED)
def test_published_configs_that_are_refused(name: str, tmp_path: Path) -> None:
    raw = REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with refused(tmp_path, "model_type", f'"{raw["model_type"]}"'):
        OpenedFolder(tmp_path)


def parsed(name: str) -> Any:
    return FAMILIES[published(name)["model_type"]].parse(published(name), name)


def test_what_the_fields_mean() -> None:
    neo, neox, gptj, phi, gemma2 = map(
        parsed,
        (
            "EleutherAI/gpt-neo-125m",
            "EleutherAI/pythia-160m",
            "EleutherAI/gpt-j-6b",
            "microsoft/phi-2",
            "google/gemma-2-2b",
        ),
    )
    assert [neo.window(layer) for layer in range(4)] == [None, 256, None, 256]
    assert [gemma2.window(layer) for layer in range(4)] == [4096, None, 4096, None]
    assert (neox.rope().head_dim, gptj.rotary_dim, phi.rope().head_dim) == (16, 64, 32)
    assert parsed("mistralai/Mixtral-8x7B-v0.1").rope().theta == 1e6


BUFFERS = {
    "gpt1": ["h.0.attn.bias"],
    "gpt_neo": ["h.0.attn.attention.bias", "h.1.attn.attention.masked_bias"],
    "gptj": ["h.0.attn.bias", "h.1.attn.masked_bias"],
    "gpt_neox": ["layers.0.attention.bias", "layers.1.attention.masked_bias", "layers.0.attention.rotary_emb.inv_freq"],
    "bloom": [],
    "mpt": [],
    "phi": ["layers.0.self_attn.rotary_emb.inv_freq"],
    "mixtral": ["layers.0.self_attn.rotary_emb.inv_freq"],
    "gemma2": ["layers.0.self_attn.rotary_emb.inv_freq"],
}
"""Tensors in old files that hold no weight."""


@pytest.mark.parametrize("name", BUFFERS)
def test_older_files(name: str, tmp_path: Path) -> None:
    """No prefix, buffers, and a copy of the head where it is tied."""
    theirs = oracle(CASES[name])
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    prefix = FAMILIES[ours.family].prefix
    tensors = {key.removeprefix(prefix): t.clone() for key, t in load_file(tmp_path / "model.safetensors").items()}
    tensors |= {buffer: torch.ones(3) for buffer in BUFFERS[name]}
    if ours.head.weight is ours.body.embed.tokens:
        tensors["lm_head.weight"] = ours.head.weight.detach().clone()
    # `transformers` writes the one name of GPT-NeoX's head and reads both
    save_file({key.replace("embed_out", "lm_head"): t for key, t in tensors.items()}, tmp_path / "model.safetensors")
    assert equal(load_model(tmp_path), ours)


def equal(a: nn.Module, b: nn.Module) -> bool:
    theirs = dict(b.named_parameters())
    return all(torch.equal(parameter, theirs.pop(name)) for name, parameter in a.named_parameters()) and not theirs
