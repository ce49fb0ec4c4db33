"""The difficulty of an answer, from the model's own loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from langwright.data.conversations import ChatExample
from langwright.evaluation.relevance import answer_difficulty
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model


@pytest.mark.parametrize("bos", [1, None])
def test_it_is_the_ratio_of_two_mean_losses(bos: int | None) -> None:
    config = LlamaConfig(vocab_size=30, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
                         num_key_value_heads=1, intermediate_size=24, max_position_embeddings=20)  # fmt: skip
    model = new_model("llama", config, seed=2).eval()
    for parameter in model.parameters():
        parameter.data += 0.2
    ids = np.array([3, 9, 4, 11, 7, 5], np.int32)
    trained = np.array([False, False, False, True, True, True])
    short = ChatExample(ids[:4], trained[:4], "b")
    found = answer_difficulty(model, [ChatExample(ids, trained, "a"), short], bos, batch_size=2)

    def loss(row: list[int], targets: int) -> float:
        logits = model(torch.tensor([row]))[0, :-1].float()
        return float(F.cross_entropy(logits[-targets:], torch.tensor(row[-targets:])))

    with torch.no_grad():
        alone = [1, 11, 7, 5] if bos else [11, 7, 5]
        expected = loss(ids.tolist(), 3) / loss(alone, 3 if bos else 2)
        one = loss(ids[:4].tolist(), 1) / loss([1, 11] if bos else [11, 11], 1)
    assert found == pytest.approx([expected, one], rel=1e-5)
