"""What must hold on a GPU as it does on a CPU. Skipped, loudly, where there is none."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from langwright.adaptation.methods.lora import LoRA
from langwright.inference.engine import Engine
from langwright.inference.sampling import Sampling
from langwright.models.families import LANGUAGE
from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.objectives.language import TokenPrediction
from langwright.objectives.losses import linear_cross_entropy
from langwright.parts.cache import KVCache
from langwright.parts.heads import Projection
from langwright.training.learner import Learner
from oracles import left_padding, perturb, random_ids
from tiny import RECIPE, batch_of, quantise_model, tiny_learner, tiny_model
from writers import written

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="SKIPPED FOR WANT OF A GPU")
GPU = torch.device("cuda")


def pair(family: str) -> tuple[Any, Any]:
    """The same model on the CPU and on the GPU."""
    config = by_depth(family, 2, 53, 64, dropout=0.0)
    here, there = (new_model(family, config, seed=3).eval() for _ in range(2))
    perturb(here, 5)
    perturb(there, 5)
    return here, there.to(GPU)


def assert_close(there: Tensor, here: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(there.detach().cpu(), here.detach(), rtol=0, atol=atol)


@torch.no_grad()
@pytest.mark.parametrize("family", LANGUAGE)
def test_logits_padding_and_cache(family: str) -> None:
    here, there = pair(family)
    ids, mask = random_ids(4, 21), left_padding(4, 21)
    assert_close(there(ids.to(GPU)), here(ids))
    expected = here(ids, mask)
    assert_close(there(ids.to(GPU), mask.to(GPU))[mask.to(GPU)], expected[mask])
    state = KVCache(len(there.body.blocks), there.body.own_slots())
    parts = [there(ids[:, feed].to(GPU), mask[:, feed].to(GPU), state=state) for feed in (slice(0, 18), slice(18, 21))]
    assert_close(torch.cat(parts, 1)[mask.to(GPU)], expected[mask])


@pytest.mark.parametrize("family", LANGUAGE)
def test_texts_of_an_engine(family: str) -> None:
    """Greedy and drawn, alone and beside others, in so little room that one gives way."""
    here, there = pair(family)
    prompts, samplings = (
        [row.tolist() for row in random_ids(3, 9)],
        [Sampling(temperature=0), Sampling(), Sampling(0.5)],
    )
    expected = written(here, prompts, 9, samplings)
    assert written(there, prompts, 9, samplings, Engine(there, blocks=9, block_size=4)) == expected


@torch.no_grad()
@pytest.mark.parametrize("family", LANGUAGE)
def test_half_the_bits_are_near(family: str) -> None:
    here, there = pair(family)
    ids = random_ids(2, 32)
    exact, rounded = here(ids), there.bfloat16()(ids.to(GPU)).float().cpu()
    far = 0.05 if family == "mixtral" else 0.02  # a rounded router may choose differently
    assert (rounded - exact).abs().median() < far * exact.std()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("z_loss", "softcap", "biased"), [(0.0, None, False), (1e-2, 5.0, True)])
def test_cross_entropy(compiled: bool, z_loss: float, softcap: float | None, biased: bool) -> None:
    noise = torch.Generator().manual_seed(2)
    hidden, weight = (torch.randn(n, 16, generator=noise).requires_grad_() for n in (40, 29))
    bias = torch.randn(29, generator=noise).requires_grad_() if biased else None
    targets, weights = torch.randint(0, 29, (40,), generator=noise), torch.rand(40, generator=noise)
    linear_cross_entropy(Projection(hidden, weight, bias, softcap=softcap), targets, weights, z_loss).backward()
    there = [x.detach().to(GPU).requires_grad_() for x in (hidden, weight, *([] if bias is None else [bias]))]
    projection = Projection(*there, softcap=softcap)
    loss = linear_cross_entropy(projection, targets.to(GPU), weights.to(GPU), z_loss, compiled)
    loss.backward()
    for ours, theirs in zip(there, (hidden, weight, bias), strict=False):
        assert ours.grad is not None
        assert theirs is not None
        assert theirs.grad is not None
        assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps(kind: Literal["adamw", "muon"], dtype: torch.dtype) -> None:
    here = tiny_learner(optimizer=kind, dtype=dtype)
    there = Learner({"model": tiny_model().to(GPU)}, TokenPrediction(), dtype, replace(RECIPE, optimizer=kind))
    for step in range(3):
        for learner in (here, there):
            learner.backward(batch_of(step))
            learner.clip()
            learner.step(1.0)
    for name, master in here.masters.named.items():
        moved = (there.masters.named[name].cpu() - master).abs()
        assert moved.mean() < (1e-4 if dtype == torch.float32 and kind == "adamw" else 5e-3), name


@pytest.mark.parametrize("bits", ["int8", "int4", "nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_over_quantised(bits: str, dtype: torch.dtype) -> None:
    """QLoRA: three steps over packed weights, AdamW's averages in 8 bits."""
    models = pair("llama")
    moved = []
    for model in models:
        quantise_model(model, bits)
        LoRA(rank=4, target="all-linear").attach(model, seed=1)
        learner = Learner(
            {"model": model}, TokenPrediction(), dtype, replace(RECIPE, learning_rate=1e-3, optimizer_bits=8)
        )
        for step in range(3):
            learner.backward(batch_of(step))
            learner.clip()
            learner.step(1.0)
        moved.append(learner.masters.named)
    here, there = moved
    assert len(here) == 28  # two thin matrices beside seven maps in each of two layers
    for name, master in here.items():
        assert (there[name].cpu() - master).abs().mean() < (1e-4 if dtype == torch.float32 else 5e-4), name


@pytest.mark.parametrize("more", [["--optimizer", "muon"], ["--compile"]])
def test_a_killed_run_ends_bit_for_bit_the_same(more: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(4000)))

    def command(out: str) -> list[str]:
        settings = "--steps 24 --depth 2 --context 128 --batch-size 8 --vocabulary 300 --dtype bfloat16 --device cuda"
        rhythm = "--log-every 1 --save-every 4 --evaluate-every 100 --sample-every 0 --dropout 0.1 --split 0.9"
        corpus, to = str(tmp_path / "text.txt"), str(tmp_path / out)
        options = [*settings.split(), *rhythm.split(), *more]
        return [sys.executable, "-m", "langwright", "pretrain", corpus, to, *options]

    subprocess.run(command("whole"), check=True, capture_output=True)
    process = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 10:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    end = subprocess.run(command("killed"), check=True, capture_output=True, text=True)
    assert "resumed" in end.stderr
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
