"""Named shapes against the published models, and the one dial."""

import pytest
import torch
from torch import nn

from langwright.models.families import DECODERS, ENCODERS, FAMILIES, LANGUAGE
from langwright.models.model import Model
from langwright.models.shapes import PRESETS, by_depth, preset
from langwright.planning.cost import training_flops_per_token
from refusals import refused

PUBLISHED = {
    "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200,
    "t5-small": 60_506_624, "t5-base": 222_903_552, "t5-large": 737_668_096, "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "bloom-560m": 559_214_592, "bloom-1.1b": 1_065_314_304, "bloom-1.7b": 1_722_408_960, "bloom-3b": 3_002_557_440,
    "bloom-7.1b": 7_069_016_064, "bloom-176b": 176_247_271_424,
    "mpt-7b": 6_649_286_656,
    "llama-7b": 6_738_415_616, "llama-13b": 13_015_864_320, "llama-33b": 32_528_943_616, "llama-65b": 65_285_660_672,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320, "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248, "llama-3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "qwen2-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
}  # fmt: skip
"""Parameters of the files on the Hub, shared tensors once."""

ROUNDED = {
    "gpt1": 117e6,
    "gpt3-small": 125e6, "gpt3-medium": 350e6, "gpt3-large": 760e6, "gpt3-xl": 1.3e9, "gpt3-2.7b": 2.7e9,
    "gpt3-6.7b": 6.7e9, "gpt3-13b": 13e9, "gpt3-175b": 175e9,
    "bert-base": 110e6, "bert-large": 340e6,
    "bart-base": 139e6, "bart-large": 406e6,
    "mpt-30b": 30e9,
    "transformer-base": 65e6, "transformer-big": 213e6,
    "lstm-small": 4.65e6, "lstm-medium": 20e6, "lstm-large": 66e6, "awd-lstm": 24e6,
}  # fmt: skip
"""As the papers give them; GPT-3's in Table 2.1 of Brown et al. (2020)."""


def on_paper(family: str, config: object) -> Model:
    """A model without memory: shapes only."""
    with torch.device("meta"):
        return FAMILIES[family].build(config)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert parameters(on_paper(*PRESETS[name])) == PUBLISHED[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_shapes_are_as_large_as_the_papers_say(name: str) -> None:
    assert parameters(on_paper(*PRESETS[name])) == pytest.approx(ROUNDED[name], rel=0.03)


def test_every_preset_is_checked() -> None:
    assert PRESETS.keys() == PUBLISHED.keys() | ROUNDED.keys()


def test_vocabulary_context_and_dropout_are_fitted() -> None:
    _, config = preset("gpt2", 999, 77, 0.25)
    assert (config.vocab_size, config.n_positions) == (999, 77)
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.25, 0.25, 0.25)
    _, config = preset("qwen3-0.6b", 999, None, 0.25)
    assert (config.vocab_size, config.max_position_embeddings, config.attention_dropout) == (999, 40960, 0.25)


@pytest.mark.parametrize("family", [family.name for family in (*DECODERS, *ENCODERS)])
@pytest.mark.parametrize("depth", [1, 4])
def test_the_dial(family: str, depth: int) -> None:
    model = on_paper(family, by_depth(family, depth, 300, 128, 0.0))
    attention = [module for module in model.modules() if hasattr(module, "kv_heads")]
    assert (len(model.body.blocks), model.body.embed.tokens.shape[1], model.context) == (depth, 64 * depth, 128)
    assert {(a.heads, a.kv_heads, a.head_dim) for a in attention} == {(depth, depth, 64)}
    if model.generates:
        passed = training_flops_per_token(model, 0) / 6 - model.head.weight.numel()
    else:
        passed = parameters(model.body.blocks)
    assert passed == pytest.approx(12 * depth * (64 * depth) ** 2, rel=0.15)
    assert all(block.bias.causal == (family in LANGUAGE) for block in model.body.blocks)
    windows = {block.bias.window for block in model.body.blocks}
    assert windows == {None, 256} if family == "gpt_neo" and depth > 1 else windows == {None}


@pytest.mark.parametrize(
    ("ask", "names"),
    [
        (lambda: preset("gpt2-xxl", 50257, None, 0.0), ['"gpt2-xxl"', '"gpt2-xl"']),
        (lambda: preset("?", 50257, None, 0.0), ["gpt1, gpt2, gpt2-medium"]),
        (lambda: by_depth("bort", 2, 50, 8, 0.0), ['"bort"', "openai-gpt, gpt2"]),
        (lambda: by_depth("gpt2", 0, 50, 8, 0.0), ["--depth 0"]),
    ],
)
def test_what_is_refused(ask: object, names: list[str]) -> None:
    with refused(*names):
        ask()  # type: ignore[operator]
