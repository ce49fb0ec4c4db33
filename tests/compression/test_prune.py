"""Weights, heads and layers left out: masks against brute force, smaller models against what they were made from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calibrating import SIZES, WINDOWS, correlated, error, moments_of
from langwright import load_model
from langwright.compression import prune
from langwright.compression.calibration import Moments
from langwright.compression.prune import Pattern, pattern_of
from langwright.models.folder import OpenedFolder
from oracles import Case, oracle, random_ids
from refusals import refused


def matrices(seed: int = 0) -> tuple[Tensor, Tensor, Moments]:
    x, w = correlated(512, 128, seed), torch.randn(16, 128, generator=torch.Generator().manual_seed(seed))
    return x, w, moments_of(x)


def test_masks_are_those_of_brute_force() -> None:
    x, w, moments = matrices()
    found, by_size = prune.wanda(w, moments, Pattern(0.25)), prune.magnitude(w, moments, Pattern(0.25))
    pairs = prune.wanda(w, moments, pattern_of("2:4"))
    smallest = sorted(w.abs().flatten().tolist())[w.numel() // 4]
    for i in range(len(w)):
        scores = [abs(float(w[i, j])) * float(x[:, j].norm()) for j in range(128)]
        cut = sorted(scores)[32]
        for j in range(128):
            assert (found[i, j] == 0) == (scores[j] < cut)
            assert (by_size[i, j] == 0) == (abs(float(w[i, j])) < smallest)
            neighbours = sorted(scores[j // 4 * 4 : j // 4 * 4 + 4])
            assert (pairs[i, j] == 0) == (scores[j] < neighbours[2])


@pytest.mark.parametrize("pattern", [Pattern(0.5), Pattern(0.7), pattern_of("2:4"), pattern_of("1:8")])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_made_good_errs_less(pattern: Pattern, seed: int) -> None:
    x, w, moments = matrices(seed)
    solved = prune.sparsegpt(w, moments, pattern)
    assert float((solved == 0).float().mean()) == pytest.approx(pattern.share, abs=0.01)
    if pattern.of:
        assert ((solved.unflatten(1, (-1, pattern.of)) != 0).sum(2) == pattern.keep).all()
    only_masked = w * (solved != 0)
    assert error(x, w, solved) < 0.95 * error(x, w, only_masked)
    if pattern.share < 0.8:
        assert error(x, w, prune.wanda(w, moments, pattern)) < error(x, w, prune.magnitude(w, moments, pattern))


def test_groups_may_be_wider_than_a_block_of_columns() -> None:
    x, w = correlated(1024, 256), torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    assert ((prune.sparsegpt(w, moments_of(x), pattern_of("100:256")) != 0).sum(1) == 100).all()


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    sizes: dict[str, Any] = SIZES["llama"] | {"num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 16}
    oracle(Case("llama", sizes)).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def written(source: Path, model: Any) -> Path:
    out = source.parent / "small"
    prune.write_pruned(OpenedFolder(source), model, out, {})
    return out


def test_the_layers_that_change_least_go(plain: Path) -> None:
    model = load_model(plain)
    for branch in ("attention", "feedforward"):
        model.body.blocks[1].get_submodule(f"{branch}.fn.output").weight.data *= 1e-6  # type: ignore[union-attr, operator]
    smaller, gone = prune.remove_layers(model, WINDOWS, 1)
    assert gone == [1]
    out = written(plain, smaller)
    assert_alike(model, out, 1e-3)
    assert OpenedFolder(out).config.num_hidden_layers == 2


def test_the_heads_that_say_least_go(plain: Path) -> None:
    model = load_model(plain)
    for block, gone in zip(model.body.blocks, (0, 1, 0), strict=True):  # queries 2i and 2i + 1 share keys and values
        block.attention.fn.output.weight.data[:, 32 * gone : 32 * gone + 32] *= 1e-6  # type: ignore[union-attr, operator, index]
    smaller, removed = prune.remove_heads(model, WINDOWS, 2)
    assert removed == [[0, 1], [2, 3], [0, 1]]
    out = written(plain, smaller)
    assert_alike(model, out, 1e-3)
    config = OpenedFolder(out).config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 16)
    with refused("--heads 1", 2):
        prune.remove_heads(model, WINDOWS, 1)


def assert_alike(model: Any, out: Path, tolerance: float) -> None:
    """To what we open of a folder, and `transformers`."""
    import transformers

    ids = random_ids(2, 16)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        torch.testing.assert_close(load_model(out)(ids), model(ids), rtol=0, atol=tolerance)
        torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=0, atol=tolerance)


def test_what_a_config_cannot_say_is_refused(tmp_path: Path) -> None:
    oracle(Case("gpt2", SIZES["gpt2"])).save_pretrained(tmp_path / "gpt2")
    with refused("--heads", "gpt2"):
        prune.remove_heads(load_model(tmp_path / "gpt2"), WINDOWS, 1)


def test_layers_of_several_kinds_keep_theirs(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "local"], 1]],
             "max_position_embeddings": 64, "window_size": 8}  # fmt: skip
    oracle(Case("gpt_neo", sizes)).save_pretrained(tmp_path / "neo")
    smaller, _ = prune.remove_layers(load_model(tmp_path / "neo"), WINDOWS, 1)
    out = written(tmp_path / "neo", smaller)
    assert_alike(smaller, out, 1e-3)
