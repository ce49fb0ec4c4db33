"""In bfloat16 no family is further from its float32 logits than `transformers` is from its own.

Both round the same numbers, at places of their own choosing. What is compared is the median over positions of the root
mean square of a position's errors: where experts are chosen, a few positions go elsewhere for a rounded router, and
those are far off in either. The tolerance is what is left of chance when as many roundings lie elsewhere.
"""

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from langwright import load_model
from oracles import CASES, SOURCED, VOCABULARY, left_padding, oracle, perturb, random_ids, sourced_oracle

TOLERANCE = 1.02
HALF = torch.bfloat16


def error(found: Tensor, exact: Tensor) -> float:
    """The usual error of a position."""
    return float((found.float() - exact).square().mean(-1).sqrt().median())


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_decoders(name: str, tmp_path: Path) -> None:
    exact = oracle(CASES[name])
    exact.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=HALF).eval()
    ours, ids = load_model(tmp_path, dtype=HALF), random_ids(16, 60)
    wanted = exact(ids).logits
    found, limit = error(ours(ids), wanted), TOLERANCE * error(theirs(ids).logits, wanted)
    assert ours(ids).dtype == HALF
    assert 0 < found <= limit
    mask = torch.ones_like(ids, dtype=torch.bool)
    assert error(ours(ids, mask), wanted) <= limit  # with a mask, which is another path


@pytest.mark.parametrize("name", SOURCED)
@torch.no_grad()
def test_encoder_decoders(name: str, tmp_path: Path) -> None:
    exact = sourced_oracle(SOURCED[name])
    exact.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=HALF).eval()
    ours = load_model(tmp_path, dtype=HALF)
    source, target, mask = random_ids(16, 60, seed=9), random_ids(16, 60), left_padding(4, 60).flip(1).repeat(4, 1)
    given = {"input_ids": source, "decoder_input_ids": target, "attention_mask": mask.long()}
    wanted = exact(**given).logits
    assert 0 < error(ours(source, target, mask), wanted) <= TOLERANCE * error(theirs(**given).logits, wanted)


@pytest.mark.parametrize("name", ["bert", "roberta"])
@torch.no_grad()
def test_encoders(name: str, tmp_path: Path) -> None:
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    config, model = {
        "bert": (transformers.BertConfig, transformers.BertModel),
        "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
    }[name]
    torch.manual_seed(0)
    exact = model(config(vocab_size=VOCABULARY, **shape)).eval()
    perturb(exact)
    exact.save_pretrained(tmp_path)
    theirs = model.from_pretrained(tmp_path, dtype=HALF).eval()
    ours, ids, mask = load_model(tmp_path, dtype=HALF), random_ids(16, 60), left_padding(4, 60).flip(1).repeat(4, 1)
    wanted = exact(ids, attention_mask=mask.long()).last_hidden_state
    found = theirs(ids, attention_mask=mask.long()).last_hidden_state
    assert 0 < error(ours(ids, mask)[mask], wanted[mask]) <= TOLERANCE * error(found[mask], wanted[mask])
