"""GGUF files: llama.cpp reads ours with the same text, we read them with the same logits, and no broken one gets in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langwright import load_model, load_tokenizer
from langwright.base.gguf import KINDS, read_gguf
from langwright.models.families import FAMILIES
from langwright.models.families.llama import FULL, SLIDING
from langwright.models.folder import new_model
from langwright.models.gguf.writing import write_gguf
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.text.gguf import tokenizer_fields
from langwright.text.training import raw_bytes
from llama_cpp import LlamaCpp
from oracles import CASES, LLAMA3, oracle, random_ids

from ..refusals import refused

BYTES = raw_bytes()
SIZE = BYTES.vocab_size + 5
WRITTEN = [
    "gpt2", "llama", "llama-linear", "llama-llama3", "mistral", "qwen2", "qwen3", "gpt_neox", "bloom", "mpt", "phi",
    "mixtral", "mixtral-one", "gemma",
]  # fmt: skip
REFUSED = {
    "gpt1": "openai-gpt", "gpt_neo": "gpt_neo", "gptj": "gptj", "nanochat": "nanochat", "llama-biases": "hidden_act",
    "gpt_neox-serial": "attention_bias", "mpt-clipped": "softmax_scale", "phi-norms": "qk_layernorm",
    "gemma-biases": "attention_bias", "gemma2": "query_pre_attn_scalar", "gemma2-uncapped": "softcapping",
}  # fmt: skip


def write(path: Path, model: Model, kind: Any = "f32", **fields: Any) -> Path:
    """A file of a model."""
    path.parent.mkdir(exist_ok=True)
    write_gguf(path, model, dict(model.named_parameters()), fields, kind)
    return path


@torch.no_grad()
def logits(model: Model, ids: Tensor) -> Tensor:
    found: Tensor = model(ids)
    return found


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_read_with_the_same_logits(name: str, tmp_path: Path) -> None:
    oracle(CASES[name]).save_pretrained(tmp_path / "folder")
    model = load_model(tmp_path / "folder")
    back = load_model(write(tmp_path / "model.gguf", model))
    assert back.family == ("llama" if name == "mistral" else model.family)
    ids = random_ids(2, min(20, back.context))  # windows of layers that llama.cpp does not know are the context
    assert torch.equal(logits(back, ids), logits(model, ids))


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_does_not_compute_is_refused_by_name(name: str, tmp_path: Path) -> None:
    oracle(CASES[name]).save_pretrained(tmp_path / "folder")
    with refused(REFUSED[name]):
        write(tmp_path / "model.gguf", load_model(tmp_path / "folder"))
    assert not (tmp_path / "model.gguf").exists()


TINY = {
    "llama": {"num_key_value_heads": 1, "attention_bias": True, "rope_parameters": LLAMA3},
    "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 64, "layer_types": (SLIDING, FULL),
               "attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0},
    "gpt_neox": {"use_parallel_residual": False},
    "mpt": {"clip_qkv": 1.5},
}  # fmt: skip
"""Features of llama.cpp's families beyond those of every model."""


def tiny(family: str, width: int = 64) -> Model:
    """A model over bytes whose weights are far from any special value."""
    config = replace(by_depth(family, 2, SIZE, 64, 0.0, width=width), **TINY.get(family, {}))
    model = new_model(family, config, seed=1).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.3 if parameter.shape[0] == SIZE else 0.06
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return model


def compare(path: Path, kind: str, nearness: float) -> None:
    """llama.cpp writes what we write from the same file, as surely."""
    model, tokenizer = load_model(path, dtype=torch.float32), load_tokenizer(path)
    prompt = [*tokenizer.prefix, *tokenizer.encode("a text: É")]
    found = LlamaCpp(path).write(prompt, 12)
    sure = logits(model, torch.tensor([prompt + found.ids])).log_softmax(-1)[0, len(prompt) - 1 : -1]
    assert sure.argmax(-1).tolist() == found.ids
    for position, tops in enumerate(found.likeliest):
        assert [float(sure[position, id]) for id in tops] == pytest.approx(list(tops.values()), abs=nearness), kind


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row.gguf and row.is_decoder])
def test_llama_cpp_writes_the_same_text(family: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", tiny(family), "f16", **tokenizer_fields(BYTES, SIZE))
    compare(path, family, 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_every_kind_of_numbers_as_we_do(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", tiny("gpt_neox", 256), kind, **tokenizer_fields(BYTES, SIZE))
    held = {stored.kind.name for stored in read_gguf(path).tensors.values()}
    assert held == {"f32", kind, *(["q6_k"] if kind == "q4_k" else [])}
    # llama.cpp rounds what it multiplies with weights to bfloat16 or, where these are quantised, to 8 bits.
    compare(path, kind, {"f32": 0.02, "f16": 0.02, "bf16": 0.1}.get(kind, 0.5))
