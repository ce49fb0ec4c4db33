"""Heads pooled into groups: exact where it can be, and a folder like any other."""

from pathlib import Path

import pytest
import torch

from langwright import load_model
from langwright.base.errors import UserError
from langwright.models.folder import save_model
from langwright.models.model import Model
from langwright.models.surgery.kv_heads import pool_heads
from langwright.parts.attention import Attention
from oracles import Case, oracle, random_ids, reopened
from tiny import tiny_model

CASES = {
    "llama": Case("llama", {"num_key_value_heads": 6, "attention_bias": True}),
    "qwen2": Case("qwen2", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "qwen3": Case("qwen3", {"num_key_value_heads": 6, "head_dim": 10}),
    "nanochat": Case("nanochat", {"num_key_value_heads": 6}),
}


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    oracle(CASES[request.param]).save_pretrained(tmp_path / "full")
    return load_model(tmp_path / "full")


@torch.no_grad()
def test_as_many_groups_as_heads_is_the_same_model(model: Model) -> None:
    ids, pooled = random_ids(2, 20), pool_heads(model, 6)
    assert torch.equal(pooled(ids), model(ids))
    assert all(
        a.data_ptr() != b.data_ptr() and torch.equal(a, b)
        for a, b in zip(pooled.parameters(), model.parameters(), strict=True)
    )


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_equal_heads_pool_exactly(model: Model, groups: int) -> None:
    for module in model.modules():
        if isinstance(module, Attention):
            for parameter in (p for projection in (module.k, module.v) for p in projection.parameters()):
                heads = parameter.unflatten(0, (groups, 6 // groups, -1))
                parameter.copy_(heads[:, :1].expand_as(heads).reshape(parameter.shape))
    pooled, ids = pool_heads(model, groups), random_ids(2, 20)
    assert torch.allclose(pooled(ids), model(ids), atol=1e-5)
    assert {m.kv_heads for m in pooled.modules() if isinstance(m, Attention)} == {groups}


@torch.no_grad()
def test_heads_are_averaged_in_their_groups_and_the_folder_opens_anywhere(model: Model, tmp_path: Path) -> None:
    pooled = pool_heads(model.bfloat16(), 2)
    assert not pooled.training
    before, after = (m.body.blocks[1].attention.fn for m in (model, pooled))
    width = before.head_dim
    assert torch.allclose(
        after.v.weight[width:].float(), before.v.weight[3 * width :].float().unflatten(0, (3, -1)).mean(0), atol=1e-2
    )
    assert torch.equal(after.q.weight, before.q.weight)
    pooled.float()
    save_model(pooled, None, tmp_path / "pooled")
    ids = random_ids(2, 20)
    assert torch.allclose(reopened(tmp_path / "pooled")(ids).logits, pooled(ids), atol=1e-4)
    assert torch.equal(load_model(tmp_path / "pooled")(ids), pooled(ids))


def test_what_cannot_be_pooled_is_refused(model: Model) -> None:
    for groups in (0, 4, 12):
        with pytest.raises(UserError, match=f"{groups} heads of keys and values do not divide the 6"):
            pool_heads(model, groups)
    with pytest.raises(UserError, match="gpt2 has no heads of keys and values"):
        pool_heads(tiny_model(), 1)
