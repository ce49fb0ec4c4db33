"""What a policy is compared with stays as it was, whatever is trained over it."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from langwright.adaptation.method import Method
from langwright.adaptation.methods import BitFit, LayerNorm, PromptTuning, PTuning
from langwright.adaptation.methods.bottleneck import Bottleneck
from langwright.adaptation.methods.ia3 import IA3
from langwright.adaptation.methods.lora import LoRA
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.alignment.references import base_under_adapter
from langwright.models.folder import new_model
from langwright.objectives.batch import Models, TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.training.learner import Learner
from tiny import CONFIG, RECIPE, batch_of, quantise_model

ADAPTERS: dict[str, Method] = {
    "lora": LoRA(rank=2),
    "ia3": IA3(),
    "prompt": PromptTuning(2),
    "p-tuning": PTuning(2, "lstm", hidden=4),
    "prefix": PrefixTuning(2, projection=True, hidden=4),
    "bottleneck": Bottleneck("houlsby"),
    "bitfit": BitFit(),
    "layernorm": LayerNorm(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*ADAPTERS, "lora over int8"])
def test_training_an_adapter_leaves_its_reference(name: str, dtype: torch.dtype) -> None:
    """Bit for bit the base that nothing was attached to, before and after steps that change the policy."""
    config = replace(CONFIG, n_positions=18, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    base = new_model("gpt2", config, seed=1)
    if name.endswith("int8"):
        quantise_model(base, 8)
    alone = deepcopy(base).to(dtype).requires_grad_(False)
    ADAPTERS[name.split()[0]].attach(base, seed=3)
    learner = Learner({"model": base}, TokenPrediction(), dtype, RECIPE)
    batch = batch_of(0)

    def said(models: Models) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            with base_under_adapter(models) as reference:
                under = hidden(reference, batch)
            return under, hidden(models["model"], batch)

    before = said(learner.models)
    for step in range(3):
        learner.backward(batch_of(step))
        learner.clip()
        learner.step(1.0)
    after = said(learner.models)
    with torch.no_grad():
        assert torch.equal(before[0], hidden(alone, batch))
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def hidden(model: object, batch: TokenBatch) -> torch.Tensor:
    return batch.hidden(model)[0].detach()
