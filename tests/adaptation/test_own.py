"""Methods that train a few of the model's own parameters, and IA3's arithmetic."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from langwright import load_model
from langwright.adaptation.attached import attached, choose
from langwright.adaptation.folder import load_adapter, save_adapter
from langwright.adaptation.method import Method
from langwright.adaptation.methods import BitFit, HeadOnly, LayerNorm
from langwright.adaptation.methods.ia3 import IA3
from langwright.base.errors import UserError
from langwright.models.families import bert
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.objectives.language import TokenPrediction
from langwright.training.learner import Learner
from langwright.training.recipe import TrainingRecipe
from oracles import CASES, oracle, random_ids
from tiny import batch_of, tiny_model


def trained_names(model: Model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("method", [BitFit(), LayerNorm(), HeadOnly()], ids=["bitfit", "layernorm", "head"])
def test_a_folder_brings_back_what_was_trained_and_the_base_stays(method: Method, tmp_path: Path) -> None:
    labelled = bert.BertConfig(53, 16, 2, 2, 24, max_position_embeddings=20)
    model = new_model("bert", labelled, 0, "sequence", ("good", "bad")).eval()
    ids = random_ids(2, 6)
    plain = model(ids).detach()
    method.attach(model)
    with torch.no_grad():
        for name in trained_names(model):
            model.get_parameter(name).add_(0.1)
    changed = model(ids).detach()
    save_adapter(model, tmp_path)
    choose(model)
    torch.testing.assert_close(model(ids), plain)
    choose(model, "default")
    torch.testing.assert_close(model(ids), changed)
    method.detach(model)
    torch.testing.assert_close(model(ids), plain)
    assert load_adapter(model, tmp_path) == method
    torch.testing.assert_close(model(ids), changed)
    keys = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert {"base_model.model.classifier.weight", "base_model.model.classifier.bias"} <= keys


def test_what_trains_is_what_the_method_says() -> None:
    model = tiny_model()
    BitFit().attach(model)
    assert all(name.endswith(".bias") for name in trained_names(model))
    assert len(trained_names(model)) == 2 * 8 + 1  # of each layer q, k, v, o, two of the feed-forward, two norms
    BitFit().detach(model)
    LayerNorm(target=("ln_f",)).attach(model)
    assert trained_names(model) == ["body.final_norm.weight", "body.final_norm.bias"]


def test_the_optimizer_holds_only_what_trains() -> None:
    model = tiny_model()
    IA3().attach(model)
    learner = Learner({"model": model}, TokenPrediction(), torch.float32, TrainingRecipe(learning_rate=1e-3))
    held = [p for optimizer in learner.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in held) == 2 * (3 * 16 + 64)
    before = {name: p.clone() for name, p in model.named_parameters()}
    learner.backward(batch_of(0))
    learner.step(1.0)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(trained_names(model))


@pytest.mark.parametrize("method", [BitFit(), HeadOnly()], ids=["bitfit", "head"])
def test_nothing_to_train_is_an_error(method: Method, tmp_path: Path) -> None:
    oracle(CASES["qwen3"]).save_pretrained(tmp_path) if isinstance(method, BitFit) else None
    model = load_model(tmp_path) if isinstance(method, BitFit) else tiny_model()
    with pytest.raises(UserError, match=r"no biases|token table"):
        method.attach(model)


def test_ia3_of_a_slice_leaves_the_rest_of_the_fused_map(tmp_path: Path) -> None:
    oracle(CASES["gpt2"]).save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base")
    method = IA3(target=("c_attn.k", "c_attn.v", "mlp.c_proj"))
    method.attach(model)
    with torch.no_grad():
        for part in attached(model).adapters["default"].modules.values():
            for scale in part.parameters():
                scale.uniform_(0.5, 1.5)
    save_adapter(model, tmp_path / "adapter")
    scale = load_file(tmp_path / "adapter" / "adapter_model.safetensors")[
        "base_model.model.transformer.h.0.attn.c_attn.ia3_l"
    ]
    assert scale.shape == (72, 1)
    assert bool((scale[:24] == 1).all())
    assert not bool((scale[24:] == 1).any())
    expected = model(random_ids(2, 6))
    (tmp_path / "adapter" / "langwright.json").unlink()  # as PEFT reads it: the whole fused map
    method.detach(model)
    load_adapter(model, tmp_path / "adapter")
    torch.testing.assert_close(model(random_ids(2, 6)), expected)


def test_a_merged_scale_gives_the_same(tmp_path: Path) -> None:
    oracle(CASES["gpt2"]).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    IA3().attach(model)
    x = torch.randn(5, 24)
    for path, part in attached(model).adapters["default"].modules.items():
        owner = model.get_submodule(path)
        with torch.no_grad():
            for scale in part.parameters():
                scale.uniform_(0.5, 1.5)
        read = torch.randn(5, owner.weight.shape[1]) if owner.weight.shape[1] != 24 else x
        weight, bias = part.merged(owner, owner.weight.float(), owner.bias.float())
        torch.testing.assert_close(owner(read), torch.nn.functional.linear(read, weight, bias))
