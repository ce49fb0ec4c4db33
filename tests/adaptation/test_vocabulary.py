"""PEFT's adapters over a vocabulary that was resized, and of token tables and heads, tied or not, against `peft`."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

import langwright
from langwright.adaptation.attached import choose
from langwright.adaptation.folder import save_adapter
from langwright.adaptation.merging import merge, settle
from langwright.adaptation.methods import LoRA
from langwright.models.folder import save_model
from langwright.models.model import Model
from oracles import CASES, SOURCED, VOCABULARY, Case, oracle, perturb, random_ids, sourced_oracle

pytestmark = pytest.mark.filterwarnings("ignore")
TIED = {"tie_word_embeddings": True}
BASES: dict[str, Case] = {
    "llama": CASES["llama"],
    "llama-tied": Case("llama", TIED),
    "gpt2": CASES["gpt2"],
    "phi-tied": CASES["phi-norms"],
    "t5": SOURCED["t5"],
    "bart": SOURCED["bart"],
}
TABLES = {"gpt2": ["wte", "lm_head"], "t5": ["embed_tokens", "lm_head"], "bart": ["embed_tokens", "lm_head"]}
SHAPES: dict[str, tuple[int, Any]] = {
    "grown": (57, {}),
    "shrunk": (50, {}),
    "grown-and-saved": (57, lambda tables: {"modules_to_save": tables}),
    "saved": (VOCABULARY, lambda tables: {"modules_to_save": tables}),
    "saved-table": (VOCABULARY, lambda tables: {"modules_to_save": tables[:1]}),
    "saved-head": (VOCABULARY, lambda tables: {"modules_to_save": tables[1:]}),
    "saved-as-one": (57, lambda tables: {"modules_to_save": tables[:1], "ensure_weight_tying": True}),
    "lora-of-both": (57, lambda tables: {"target_modules": tables}),
    "lora-as-one": (57, lambda tables: {"target_modules": tables[:1], "ensure_weight_tying": True}),
}
IDS = random_ids(2, 9).clamp(max=49)


def opened(case: Case) -> transformers.PreTrainedModel:
    return sourced_oracle(case) if case in SOURCED.values() else oracle(case)


@torch.no_grad()
def of_theirs(model: Any) -> Tensor:
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    logits: Tensor = model(input_ids=IDS, **more).logits
    return logits


@torch.no_grad()
def of_ours(model: Model) -> Tensor:
    return model(IDS, IDS) if model.encoders else model(IDS)


def resized(case: Case, size: int) -> transformers.PreTrainedModel:
    model = opened(case)
    model.tie_weights()
    torch.manual_seed(3)
    if size != VOCABULARY:
        model.resize_token_embeddings(size, mean_resizing=False)
    return model


ODD = {("llama", "lora-as-one"), ("phi-tied", "saved-as-one"), ("phi-tied", "lora-as-one")} | {
    (base, shape) for base in ("t5", "bart") for shape in ("saved-as-one", "lora-of-both", "lora-as-one")
}
"""Where the file leaves the answer open, or PEFT fails or loses the head's bias itself."""
PAIRS = [(base, shape) for base in BASES for shape in SHAPES if (base, shape) not in ODD]


@pytest.mark.parametrize(("base", "shape"), PAIRS)
def test_what_peft_saves_answers_the_same_and_so_does_what_we_save_of_it(base: str, shape: str, tmp_path: Path) -> None:
    opened(BASES[base]).save_pretrained(tmp_path / "base")
    size, settings = SHAPES[shape]
    settings = settings(TABLES.get(base, ["embed_tokens", "lm_head"])) if settings else {}
    theirs = peft.get_peft_model(resized(BASES[base], size), peft.LoraConfig(r=3, lora_alpha=5, **settings)).eval()
    perturb(theirs, 5, trained=True)
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=True)
    plain = langwright.load_model(tmp_path / "base")
    ours = langwright.load_model(tmp_path / "base", adapter=tmp_path / "theirs")
    expected = of_theirs(theirs)
    torch.testing.assert_close(of_ours(ours), expected, rtol=0, atol=2e-5)
    assert ours.vocabulary == size

    save_adapter(ours, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(resized(BASES[base], size), tmp_path / "ours").eval()
    torch.testing.assert_close(of_theirs(again), expected, rtol=0, atol=2e-5)

    choose(ours)
    assert torch.equal(of_ours(ours), of_ours(plain))
    LoRA().detach(ours)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert torch.equal(of_ours(ours), of_ours(plain))


@pytest.mark.parametrize(
    ("base", "shape"), [pair for pair in PAIRS if pair[0] in ("llama-tied", "phi-tied") and pair[1] != "shrunk"]
)
def test_a_merged_model_of_another_vocabulary_is_one_for_transformers(base: str, shape: str, tmp_path: Path) -> None:
    opened(BASES[base]).save_pretrained(tmp_path / "base")
    size, settings = SHAPES[shape]
    settings = settings(["embed_tokens", "lm_head"]) if settings else {}
    theirs = peft.get_peft_model(resized(BASES[base], size), peft.LoraConfig(r=3, lora_alpha=5, **settings)).eval()
    perturb(theirs, 5, trained=True)
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=True)
    ours = langwright.load_model(tmp_path / "base", adapter=tmp_path / "theirs")
    merge(ours)
    settle(ours)
    save_model(ours, None, tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    torch.testing.assert_close(of_theirs(merged), of_theirs(theirs), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        of_ours(langwright.load_model(tmp_path / "merged")), of_theirs(theirs), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("settings", [{"target": ("embed_tokens",)}, {"modules_to_save": ("embed_tokens",)}])
def test_what_trains_as_one_stays_one(settings: dict[str, Any], tmp_path: Path) -> None:
    opened(BASES["llama-tied"]).save_pretrained(tmp_path)
    model = langwright.load_model(tmp_path)
    LoRA(rank=3, ensure_weight_tying=True, **settings).attach(model)
    perturb(model, 5, trained=True)
    weight = torch.randn(of_ours(model).shape, generator=torch.Generator().manual_seed(1))
    (model(IDS) * weight).mean().backward()
    table = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.any() for p in table.values())
    model.body.embed.adapter = None if "target" in settings else model.body.embed.adapter  # the head is adapted still
    assert not torch.equal(of_ours(model), of_ours(langwright.load_model(tmp_path)))
