"""merge over a quantised base: into what its weights were rounded to, in float32, as peft merges over the same."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from langwright.adaptation.folder import load_model, save_adapter
from langwright.adaptation.merging import merge
from langwright.adaptation.methods.lora import LoRA
from langwright.base.errors import UserError
from langwright.cli import main
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.models.surgery.quantise import dequantise, is_quantised
from langwright.text.training import raw_bytes
from oracles import perturb, reopened

pytestmark = pytest.mark.filterwarnings("ignore")
NEAR = 1e-4
IDS = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(1))
CASES: dict[str, tuple[str, str, torch.dtype, dict[str, Any]]] = {
    "gpt2-int8": ("gpt2", "int8", torch.float32, {"target": "all-linear"}),
    "gpt_neox-int4": ("gpt_neox", "int4", torch.float32, {}),
    "llama-nf4-dora": ("llama", "nf4", torch.float32, {"target": "all-linear", "dora": True}),
    "gpt2-fp4-bfloat16": ("gpt2", "fp4", torch.bfloat16, {"target": ("c_attn.q", "c_fc")}),
}
"""Family, kind, dtype of the base, settings of LoRA."""


@pytest.fixture(params=CASES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a base, the same quantised, and an adapter of either; `kind` names the kind."""
    family, kind, dtype, settings = CASES[request.param]
    tokenizer = raw_bytes()
    model = new_model(family, by_depth(family, 1, tokenizer.vocab_size, 64, 0.0))
    perturb(model)
    save_model(model.to(dtype), tokenizer, tmp_path / "base")
    (tmp_path / "kind").write_text(kind)
    assert main(["compress", str(tmp_path / "base"), str(tmp_path / "small"), "--to", kind]) == 0
    for base, bits in (("small", None), ("base", kind)):
        adapted = load_model(tmp_path / base, bits=bits)
        LoRA(rank=3, **settings).attach(adapted, seed=2)
        perturb(adapted, 3, trained=True)
        save_adapter(adapted, tmp_path / f"{base}-adapter", base=tmp_path / base)
    return tmp_path


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    given = model(IDS)
    return given.logits if hasattr(given, "logits") else given


def near(given: Tensor, expected: Tensor) -> bool:
    return bool((given - expected).abs().max() <= NEAR)


@pytest.mark.parametrize("base", ["small", "base"], ids=["compressed", "rounded while loading"])
def test_the_merged_model_gives_the_logits_of_the_live_adapter(
    base: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = (made / "kind").read_text()
    bits = None if base == "small" else kind
    paths = [str(made / name) for name in (base, f"{base}-adapter", "merged")]
    capsys.readouterr()
    assert main(["merge", *paths, "--json", *([] if bits is None else ["--bits", bits])]) == 0
    assert json.loads(capsys.readouterr().out)["largest_logit_change"] < NEAR
    merged = load_model(made / "merged")
    assert not is_quantised(merged)
    assert {tensor.dtype for tensor in load_file(made / "merged" / "model.safetensors").values()} == {torch.float32}
    assert "quantization_config" not in json.loads((made / "merged" / "config.json").read_text())
    alive = load_model(made / base, dtype=torch.float32, adapter=made / f"{base}-adapter", bits=bits)
    assert near(logits(merged), logits(alive))
    assert not near(logits(merged), logits(load_model(made / base, dtype=torch.float32, bits=bits)))
    dequantise(alive)
    assert near(logits(merged), logits(alive))


def test_peft_merges_the_same_over_the_dequantised_base(made: Path) -> None:
    assert main(["merge", *(str(made / name) for name in ("small", "small-adapter", "merged"))]) == 0
    base = load_model(made / "small", dtype=torch.float32)
    dequantise(base)
    save_model(base, raw_bytes(), made / "dense")
    theirs = peft.PeftModel.from_pretrained(reopened(made / "dense"), made / "small-adapter").eval()
    expected = logits(theirs)
    assert near(logits(theirs.merge_and_unload()), expected)
    assert near(logits(reopened(made / "merged")), expected)


def test_in_memory_the_weights_are_made_floats_first(made: Path) -> None:
    model = load_model(made / "small", dtype=torch.float32, adapter=made / "small-adapter")
    with pytest.raises(UserError, match=r"quantised.*dequantise"):
        merge(model)
    before = logits(model)
    dequantise(model)
    assert not is_quantised(model)
    assert near(logits(model), before)
    change = merge(model, ids=IDS)
    assert change is not None
    assert change <= NEAR
