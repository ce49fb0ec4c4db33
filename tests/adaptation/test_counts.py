"""The numbers of trained parameters that are published (PEFT's method comparison, and papers), and what is targeted."""

from typing import Any

import pytest
import torch

from langwright.adaptation.method import Method
from langwright.adaptation.methods import IA3, BitFit, Bottleneck, LayerNorm, LoRA, PrefixTuning, PromptTuning, PTuning
from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.model import Model
from refusals import refused

LLAMA_3B = {
    "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8,
    "intermediate_size": 8192, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip
QWEN_3B = {
    "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
    "intermediate_size": 11008, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
GPT3 = {"n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048}
QV, ALL_FOUR = ("c_attn.q", "c_attn.v"), ("c_attn.q", "c_attn.k", "c_attn.v", "attn.c_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", *MLP)
PUBLISHED: list[tuple[str, dict[str, Any], Method, int]] = [
    ("llama", LLAMA_3B, LoRA(rank=32, alpha=64), 9_175_040),
    ("llama", LLAMA_3B, LoRA(rank=32, alpha=64, dora=True), 9_289_728),
    ("llama", LLAMA_3B, LoRA(rank=64, rslora=True), 18_350_080),
    ("llama", LLAMA_3B, LoRA(rank=10, target=MLP), 9_461_760),
    ("llama", LLAMA_3B, IA3(), 286_720),
    ("llama", LLAMA_3B, IA3(target=ALL, feedforward=MLP), 630_784),
    ("llama", LLAMA_3B, PromptTuning(200, "random"), 614_400),
    ("llama", LLAMA_3B, PromptTuning(200, "vocabulary"), 614_400),
    ("llama", LLAMA_3B, PrefixTuning(200), 11_468_800),
    ("llama", LLAMA_3B, PrefixTuning(200, init="zero"), 11_468_800),
    ("llama", LLAMA_3B, PrefixTuning(50, init="text", text="any"), 2_867_200),
    ("llama", LLAMA_3B, PTuning(20), 28_382_208),
    ("llama", LLAMA_3B, LayerNorm(), 175_104),
    ("qwen2", QWEN_3B, LoRA(rank=16), 3_686_400),
    ("gpt2", GPT3, LoRA(rank=1, target=QV), 4_718_592),
    ("gpt2", GPT3, LoRA(rank=8, target=QV), 37_748_736),
    ("gpt2", GPT3, LoRA(rank=8, target=("c_attn.q",)), 18_874_368),
    ("gpt2", GPT3, LoRA(rank=2, target=ALL_FOUR), 18_874_368),
    ("gpt2", {"n_embd": 1024, "n_layer": 24, "n_head": 16}, LoRA(rank=4, target=QV), 393_216),
    ("gpt2", {"n_embd": 1280, "n_layer": 36, "n_head": 20}, LoRA(rank=4, target=QV), 737_280),
    ("gpt2", {"n_embd": 100, "n_layer": 1, "n_head": 1}, LoRA(rank=2, target=("c_attn.q",)), 400),
    # as `transformers` and PEFT count it
    ("gpt2", {}, PrefixTuning(20, projection=True), 20 * 768 + 769 * 512 + 513 * 2 * 12 * 768),
    ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, LoRA(rank=8), 294_912),
    ("bert", {}, Bottleneck("pfeiffer"), 894_528),
    ("bert", {}, Bottleneck("houlsby"), 1_789_056),
    ("bert", {}, Bottleneck("parallel"), 12 * (2 * 768 * 384 + 768 + 384)),
    # the biases of 12 layers (q, k, v, o, two of the feed-forward, two norms) and one norm
    ("bert", {}, BitFit(), 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 768),
]


def made(family: str, shape: dict[str, Any]) -> Model:
    row = FAMILIES[family]
    with torch.device("meta"):
        return tasks.build(row, row.config(**shape), row.task)


@pytest.mark.parametrize(("family", "shape", "method", "count"), PUBLISHED)
def test_as_published(family: str, shape: dict[str, Any], method: Method, count: int) -> None:
    model = made(family, shape)
    method.attach(model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_targets(family: str) -> None:
    model = made(family, {}) if family not in ("mixtral", "nanochat") else made(family, {"num_hidden_layers": 1})
    LoRA(rank=1).attach(model)
    assert all(".adapter." in n for n, p in model.named_parameters() if p.requires_grad)


def test_unknown_targets_are_named_with_what_is_near() -> None:
    model = made("gpt2", {"n_layer": 1})
    with refused('"c_atn"', 'did you mean "c_attn"'):
        LoRA(target=("c_atn",)).attach(model)
    with refused('"ln_1"'):
        LoRA(target=("ln_1",)).attach(model)
    assert "adapters" not in vars(model) or not vars(model)["adapters"].adapters


def test_a_target_is_a_whole_name_or_an_ending_behind_a_dot() -> None:
    model = made("t5", {"num_layers": 1})
    names = [point.name for point in LoRA(target=("o",)).targets(model)]
    assert names
    assert all(name.endswith(".o") for name in names)  # not wo, which ends so too
