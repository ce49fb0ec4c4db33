"""New parameters have the spread that each family's paper gives them."""

import dataclasses

import pytest
import torch

from langwright.models.families import DECODERS, ENCODERS
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.llama import LlamaConfig
from langwright.models.families.nanochat import NanoChatConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth

STD = 0.05
GPT2 = GPT2Config(vocab_size=500, n_positions=200, n_embd=64, n_layer=8, n_head=4, initializer_range=STD)
LLAMA = LlamaConfig(
    vocab_size=500, hidden_size=64, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4,
    initializer_range=STD, attention_bias=True,
)  # fmt: skip


def spread(model: Model) -> dict[str, float]:
    """The root mean square of every matrix; vectors must be exactly 1 (norms) or 0 (biases)."""
    matrices = {}
    for name, parameter in model.state_dict().items():
        if parameter.ndim > 1:
            assert abs(float(parameter.mean())) < 0.1 * max(STD, float(parameter.std())), name
            matrices[name] = float(parameter.square().mean().sqrt())
        else:
            norm = name.endswith("weight")
            assert torch.equal(parameter, torch.full_like(parameter, float(norm))), name
    return matrices


def test_gpt2_scales_the_end_of_each_branch() -> None:
    for name, std in spread(new_model("gpt2", GPT2)).items():
        branch_end = name.endswith("fn.output.weight")
        assert std == pytest.approx(STD / 4 if branch_end else STD, rel=0.06), name  # 4 = sqrt(2 * 8 layers)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_llama_has_one_spread(family: str) -> None:
    found = spread(new_model(family, LLAMA))
    assert {"head.weight", "body.embed.tokens"} <= found.keys()
    assert all(std == pytest.approx(STD, rel=0.06) for std in found.values())


@pytest.mark.parametrize("family", [row.name for row in (*DECODERS, *ENCODERS) if row.name not in ("gpt2", "nanochat")])
def test_every_other_family_has_one_spread(family: str) -> None:
    config = by_depth(family, 1, 500, 64, 0.0)
    config = dataclasses.replace(config, initializer_range=STD)
    zero = family in ("gemma", "gemma2")  # to which their norms add one
    model = new_model(family, config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert float(parameter.detach().square().mean().sqrt()) == pytest.approx(STD, rel=0.06), name
        else:
            norm = name.endswith("weight") and not zero
            assert torch.equal(parameter, torch.full_like(parameter, float(norm))), name


def test_nanochat_begins_with_branches_of_zero() -> None:
    config = NanoChatConfig(
        vocab_size=500, hidden_size=64, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4
    )
    for name, std in spread(new_model("nanochat", config)).items():
        table = {"body.embed.tokens": 1.0, "head.weight": 0.001}
        wanted = 0.0 if name.endswith("fn.output.weight") else table.get(name, 64**-0.5)
        assert std == pytest.approx(wanted, rel=0.06), name


def test_the_seed_decides_and_nothing_else_is_touched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (new_model("llama", LLAMA, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
