"""AdamW with its averages in 8 bits or elsewhere: against PyTorch's and bitsandbytes', and its memory."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from langwright.objectives.language import TokenPrediction
from langwright.parts.quantisers import dequantise_blocks, quantise_blocks
from langwright.training.adamw import LeanAdamW
from langwright.training.learner import Learner
from langwright.training.loop import Hooks
from tiny import RECIPE, Killed, batch_of, killed_at, same, tiny_model, tiny_run, weights

SHAPES = [(80, 64), (5000,), (64,)]
"""Two that are large enough for 8 bits, one of them not of whole blocks, and one that is not."""


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(make: Any, steps: int = 5) -> list[nn.Parameter]:
    parameters = [nn.Parameter(numbers(shape, 100 + i)) for i, shape in enumerate(SHAPES)]
    optimizer = make(parameters)
    for step in range(steps):
        for i, parameter in enumerate(parameters):
            parameter.grad = numbers(tuple(parameter.shape), 10 * step + i)
        optimizer.step()
    return parameters


SETTINGS = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}


@pytest.mark.parametrize("host", [True, False])
def test_in_32_bits_it_is_adamw(host: bool) -> None:
    ours = trained(lambda p: LeanAdamW(p, bits=32, host=host, **SETTINGS))
    wanted = trained(lambda p: torch.optim.AdamW(p, **SETTINGS))
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_in_8_bits_its_averages_are_rounded_between_steps() -> None:
    ours = trained(lambda p: LeanAdamW(p, bits=8, **SETTINGS))[0]
    value, mean, square = numbers(SHAPES[0], 100), torch.zeros(SHAPES[0]), torch.zeros(SHAPES[0])
    for step in range(1, 6):
        gradient = numbers(SHAPES[0], 10 * (step - 1))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        update = mean / (1 - 0.9**step) / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
        value = value * (1 - 0.01 * 0.1) - 0.01 * update
        mean = dequantise_blocks(*quantise_blocks(mean))
        square = dequantise_blocks(*quantise_blocks(square, signed=False), signed=False)
    close = (ours - value).abs() < 1e-5  # a number at the edge of two codes may fall to either side
    assert close.float().mean() > 0.999


def test_in_8_bits_it_is_near_that_of_bitsandbytes() -> None:
    """Their compiled code misses the nearest code now and then, so single numbers may differ, and the whole not."""
    theirs = pytest.importorskip("bitsandbytes").optim.AdamW8bit
    ours, wanted = trained(lambda p: LeanAdamW(p, bits=8, **SETTINGS)), trained(lambda p: theirs(p, **SETTINGS))
    start = trained(lambda p: LeanAdamW(p, bits=8, **SETTINGS), steps=0)
    for a, b, before in zip(ours, wanted, start, strict=True):
        moved, theirs_moved = a.detach() - before.detach(), b.detach() - before.detach()
        assert float((moved - theirs_moved).norm() / theirs_moved.norm()) < 0.05


@pytest.mark.parametrize(("bits", "bytes_a_number"), [(32, 8.0), (8, 2 + 8 / 256)])
def test_memory(bits: int, bytes_a_number: float) -> None:
    parameter = nn.Parameter(torch.zeros(256, 256))
    optimizer = LeanAdamW([parameter], bits=bits)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(tensor.nbytes for tensor in optimizer.state[parameter].values()) - 4  # the count of steps
    assert held / parameter.numel() == bytes_a_number


@pytest.mark.parametrize(("bits", "host"), [(8, False), (8, True), (32, True)])
def test_a_resumed_run_ends_bit_for_bit_the_same(bits: Literal[8, 32], host: bool, tmp_path: Path) -> None:
    ends, recipe = [], replace(RECIPE, optimizer_bits=bits, optimizer_host=host)
    for folder, attempts in (("whole", [Hooks()]), ("killed", [killed_at(7), Hooks()])):
        for hooks in attempts:
            learner = Learner({"model": wide_model()}, TokenPrediction(), torch.float32, recipe)
            assert any(p.numel() >= 4096 for p in learner.masters.named.values())
            run = tiny_run(tmp_path / folder, learner, hooks=hooks)
            torch.manual_seed(0)
            run.resume()
            with contextlib.suppress(Killed):
                run.fit()
        ends.append(weights(learner.model))
    assert same(*ends)


def wide_model() -> nn.Module:
    """One with matrices of more than 4,096 numbers."""
    from langwright.models.families.gpt2 import GPT2Config
    from langwright.models.folder import new_model

    sizes = {"vocab_size": 29, "n_positions": 16, "n_embd": 40, "n_layer": 1, "n_head": 2}
    return new_model("gpt2", GPT2Config(**sizes, resid_pdrop=0.1, embd_pdrop=0.0, attn_pdrop=0.1), seed=1)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_recomputed_blocks_give_the_same_gradients_bit_for_bit(dropout: float) -> None:
    whole, kept = gradients(dropout, recompute=False)
    again, fewer = gradients(dropout, recompute=True)
    assert same(whole, again)
    assert fewer < 0.3 * kept


def gradients(dropout: float, recompute: bool) -> tuple[dict[str, Tensor], int]:
    """Of every parameter; and how many numbers were kept for the way back."""
    model = tiny_model(dropout).train()
    model.body.recompute = recompute
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = TokenPrediction()({"model": model}, batch_of(0))["tokens"]
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, sum(kept)
