"""Published numbers of trained parameters, re-reached on the meta device (PEFT's method comparison, and papers)."""

import pytest
import torch

from langwright.adaptation.method import Method
from langwright.adaptation.methods import BitFit, LayerNorm, PromptTuning, PTuning
from langwright.adaptation.methods.bottleneck import Bottleneck
from langwright.adaptation.methods.ia3 import IA3
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.models.families import bert, gpt2, llama
from langwright.models.model import Model

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def llama_3b() -> Model:
    """Llama-3.2-3B: 28 layers 3072 wide, keys and values 1024, feed-forward 8192."""
    config = llama.LlamaConfig(
        vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    return llama.LLAMA.build(config)


def trained(model: Model, method: Method) -> int:
    method.attach(model)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (IA3(), 286_720),
        (IA3(target=ALL, feedforward=("gate_proj", "up_proj", "down_proj")), 630_784),
        (PromptTuning(200, "random"), 614_400),
        (PromptTuning(200, "vocabulary"), 614_400),
        (PrefixTuning(200), 11_468_800),
        (PrefixTuning(200, init="zero"), 11_468_800),
        (PrefixTuning(50, init="text", text="any"), 2_867_200),
        (PTuning(20), 28_382_208),
        (LayerNorm(), 175_104),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else value,
)
def test_of_llama(method: Method, count: int) -> None:
    with torch.device("meta"):
        assert trained(llama_3b(), method) == count


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (Bottleneck("pfeiffer"), 894_528),
        (Bottleneck("houlsby"), 1_789_056),
        (Bottleneck("parallel"), 12 * (2 * 768 * 384 + 768 + 384)),
        # BitFit of BERT-base: the biases of 12 layers (q, k, v, o, two of the feed-forward, two norms) and one norm
        (BitFit(), 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 768),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else value,
)
def test_of_bert(method: Method, count: int) -> None:
    with torch.device("meta"):
        assert trained(bert.BERT.build(bert.BertConfig()), method) == count


def test_of_the_prefix_with_its_projection() -> None:
    """As `transformers` and PEFT count GPT-2: 20 * 768 + (768 + 1) * 512 + (512 + 1) * 2 * 12 * 768."""
    with torch.device("meta"):
        model = gpt2.GPT2.build(gpt2.GPT2Config())
        assert trained(model, PrefixTuning(20, projection=True)) == 20 * 768 + 769 * 512 + 513 * 2 * 12 * 768
