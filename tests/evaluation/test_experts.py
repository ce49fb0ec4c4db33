"""Whose work is counted: every real target, twice where two experts are chosen."""

from pathlib import Path

import pytest
import torch

from langwright import load_model
from langwright.evaluation.experts import expert_shares
from langwright.objectives.batch import TokenBatch
from oracles import CASES, oracle, random_ids


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "mixtral-one"])
def test_shares_are_those_of_their_routers(name: str, tmp_path: Path) -> None:
    theirs = oracle(CASES[name])
    theirs.save_pretrained(tmp_path)
    weights = (torch.arange(12) < torch.tensor([[12], [5]])).float()
    texts = [random_ids(2, 13, seed=seed) for seed in range(3)]
    batches = [TokenBatch(text[:, :-1], text[:, 1:], weights) for text in texts]
    found = {layer: share for (_, layer), share in expert_shares(load_model(tmp_path), batches).items()}
    active, experts = theirs.config.num_experts_per_tok, theirs.config.num_local_experts
    counts = torch.zeros(3, experts)
    for batch in batches:
        for layer, logits in enumerate(theirs(batch.ids, output_router_logits=True).router_logits):
            chosen = logits[batch.weights.flatten() > 0].topk(active, -1).indices
            counts[layer] += torch.bincount(chosen.flatten(), minlength=experts)
    assert list(found) == [0, 1, 2]
    assert torch.stack(list(found.values())).allclose(counts / (3 * 17 * active))
