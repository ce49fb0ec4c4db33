"""More tokens: old logits stay, new rows are the mean of the old, and transformers opens the result."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from langwright import load_model
from langwright.models.families.llama import LlamaConfig
from langwright.models.families.phi import PhiConfig
from langwright.models.folder import new_model, save_model
from langwright.models.surgery.vocabulary import grow_vocabulary


@pytest.mark.parametrize("tied", [True, False])
def test_old_logits_stay_and_new_ones_are_their_mean(tied: bool, tmp_path: Path) -> None:
    shape = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, intermediate_size=24, num_key_value_heads=1, tie_word_embeddings=tied)
    model = new_model("llama", config)
    ids = torch.arange(10)[None]
    before = model(ids)
    assert grow_vocabulary(model, 53) == 3
    assert grow_vocabulary(model, 50) == 0
    after = model(ids)
    assert torch.equal(after[..., :50], before)
    torch.testing.assert_close(after[..., 50:], before.mean(-1, keepdim=True).expand(1, 10, 3))
    assert (model.head.weight is model.body.embed.tokens) == tied
    save_model(model, None, tmp_path)
    assert torch.equal(load_model(tmp_path)(torch.tensor([[52]])), model(torch.tensor([[52]])))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs(torch.tensor([[52, 3]])).logits, model(torch.tensor([[52, 3]])))


def test_a_bias_of_the_head_grows_too() -> None:
    shape = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = new_model("phi", PhiConfig(**shape, intermediate_size=24))
    torch.nn.init.normal_(model.head.bias)
    before = model(torch.arange(4)[None])
    grow_vocabulary(model, 51)
    torch.testing.assert_close(model(torch.arange(4)[None])[..., 50], before.mean(-1))
