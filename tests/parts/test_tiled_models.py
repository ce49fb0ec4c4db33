"""Whole models whose attention goes tile by tile give what they give with PyTorch's fused kernels."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from langwright.models.families.bart import BartConfig
from langwright.models.families.bloom import BloomConfig
from langwright.models.families.gemma import GemmaConfig
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.llama import LlamaConfig
from langwright.models.families.t5 import T5Config
from langwright.models.folder import new_model
from langwright.parts import kernels
from langwright.parts.cache import KVCache
from langwright.parts.state import Taps
from oracles import perturb

VOCABULARY, TIME = 31, 150  # more than one tile
LLAMA = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256,
)  # fmt: skip
BLOOM = BloomConfig(vocab_size=VOCABULARY, hidden_size=12, n_layer=2, n_head=3)
CASES = {"llama": ("llama", LLAMA), "window": ("mistral", replace(LLAMA, sliding_window=20)), "alibi": ("bloom", BLOOM)}
BART = BartConfig(
    vocab_size=VOCABULARY, max_position_embeddings=256, encoder_layers=1, encoder_ffn_dim=16,
    encoder_attention_heads=2, decoder_layers=1, decoder_ffn_dim=16, decoder_attention_heads=2, d_model=16,
)  # fmt: skip
IDS = torch.randint(VOCABULARY, (2, TIME), generator=torch.Generator().manual_seed(0))
PADDED = torch.stack([torch.ones(TIME, dtype=torch.bool), torch.arange(TIME) >= 33])


def made(case: str) -> nn.Module:
    family, config = CASES[case]
    model = new_model(family, config).double().eval()
    perturb(model)
    return model


def gradients(model: nn.Module, hidden: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(hidden.square().sum(), list(model.body.parameters())))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_decoder_in_value_and_gradient(case: str, masked: bool) -> None:
    model, mask = made(case), PADDED if masked else None
    real = torch.ones_like(PADDED) if mask is None else mask
    fused = model.body(IDS, mask)[real]
    model.body.tiled = True
    with (
        patch.object(kernels, "attend_fused", side_effect=AssertionError),
        patch.object(kernels, "attend_explicitly", side_effect=AssertionError),
    ):
        tiled = model.body(IDS, mask)[real]
    assert torch.allclose(tiled, fused, rtol=0, atol=1e-10)
    for ours, theirs in zip(gradients(model, tiled), gradients(model, fused), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_packed_documents_and_a_cache(case: str) -> None:
    model = made(case)
    segments = (torch.arange(TIME) // 40).expand(2, -1)
    with torch.no_grad():
        packed, whole = model.body(IDS, segments=segments), model.body(IDS)
        model.body.tiled = True
        assert torch.allclose(model.body(IDS, segments=segments), packed, rtol=0, atol=1e-10)
        cache = KVCache(2)
        steps = [model.body(piece, state=cache) for piece in IDS.split([130, 1, 19], 1)]
    assert torch.allclose(torch.cat(steps, 1), whole, rtol=0, atol=1e-10)


def test_an_encoder_decoder_with_padding_on_both_sides() -> None:
    model = new_model("bart", BART).double().eval()
    perturb(model)
    left, right = PADDED, PADDED.flip(1)
    with torch.no_grad():
        fused = model(IDS, IDS.flip(1), right, left)[left]
        model.encoder.tiled = model.body.tiled = True
        tiled = model(IDS, IDS.flip(1), right, left)[left]
    assert torch.allclose(tiled, fused, rtol=0, atol=1e-10)


def test_weights_can_still_be_watched() -> None:
    model, taps = made("llama"), Taps("attention")
    model.body.tiled = True
    with torch.no_grad():
        model.body(IDS[:, :9], taps=taps)
    assert taps.get("attention")[1].sum(-1).allclose(torch.ones(2, 4, 9, dtype=torch.float64))


def test_what_the_tiles_cannot_do_is_refused() -> None:
    capped = new_model("gemma2", GemmaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=256, attn_logit_softcapping=50.0,
    ))  # fmt: skip
    dropping = new_model("gpt2", GPT2Config(VOCABULARY, 256, 16, 1, 2, attn_pdrop=0.1)).train()
    learned = new_model("t5", T5Config(VOCABULARY, 16, 8, 16, 1, num_heads=2)).eval()
    for model, message in ((capped, "neither dropout nor a cap"), (dropping, "neither dropout"), (learned, "learned")):
        model.body.tiled = True
        with pytest.raises(ValueError, match=message):
            model.body(IDS)
