"""Generation with adapters: greedy texts equal those of `peft`, and the cache changes nothing."""

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from langwright import load_model
from langwright.adaptation.folder import load_adapter
from langwright.adaptation.method import Method
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.adaptation.methods.prompt_tuning import PromptTuning
from langwright.base.errors import UserError
from langwright.inference.sampling import Search
from langwright.inference.sinks import Streaming
from oracles import CASES, Case, oracle, random_ids, sourced_oracle
from writers import written

CONFIGS: dict[str, Any] = {
    "ia3": peft.IA3Config,
    "prompt": lambda **more: peft.PromptTuningConfig(num_virtual_tokens=4, **more),
    "p-tuning": lambda **more: peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8, **more),
    "prefix": lambda **more: peft.PrefixTuningConfig(num_virtual_tokens=4, **more),
}
NEW = 6


def base(family: str) -> transformers.PreTrainedModel:
    if family == "t5":
        return sourced_oracle(Case("t5", {"num_decoder_layers": 2}))
    return oracle(CASES[family])


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_greedy_texts_equal_those_of_peft(family: str, kind: str, tmp_path: Path) -> None:
    theirs = base(family)
    theirs.save_pretrained(tmp_path / "base")
    more = {"task_type": "SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM"}
    more |= {"token_dim": 30} if (family, kind) == ("t5", "prefix") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(theirs, CONFIGS[kind](**more)).eval()
        torch.manual_seed(0)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn_like(parameter)
        adapted.save_pretrained(tmp_path / "adapter")
        ids = random_ids(2, 7)
        expected = adapted.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
    ours = load_model(tmp_path / "base")
    load_adapter(ours, tmp_path / "adapter")
    first = 1 if family == "t5" else ids.shape[1]
    assert written(ours, ids.tolist(), NEW) == expected[:, first:].tolist()


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma2", "bloom"])
@pytest.mark.parametrize("method", [PromptTuning(3, "random"), PrefixTuning(3)], ids=["prompt", "prefix"])
def test_the_cache_and_padding_change_nothing(family: str, method: Method, tmp_path: Path) -> None:
    oracle(CASES[family]).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    method.attach(model, seed=5)
    prompts = [row.tolist()[n:] for row, n in zip(random_ids(3, 9), (0, 4, 2), strict=True)]
    for search in (Search(), Search(beams=3)):
        together = written(model, prompts, NEW, search=search)
        assert together == written(model, prompts, NEW, search=search, cache=False)
        assert together == [written(model, [prompt], NEW, search=search)[0] for prompt in prompts]


def test_a_window_would_forget_the_virtual_tokens(tmp_path: Path) -> None:
    oracle(CASES["llama"]).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    PrefixTuning(3).attach(model)
    with pytest.raises(UserError, match="--window"):
        Streaming(8).cache(model)
