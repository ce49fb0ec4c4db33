"""Training speed of Langwright and its peers: AdamW on GPT-2 shapes, in turn, in one run.

    python benchmarks/training_speed.py [--shape small|124M|...] [--device cpu|cuda] [--steps 6] [--rounds 2]

Each variant runs in a process of its own, on random tokens. Every peer is measured at each setting named here, and its
best counts: bf16 weights with fp32 masters or autocast, SDPA or plain ("explicit") attention, eager and compiled.
"kept" lets the C library keep freed memory (base/allocator.py), which our commands do themselves; a peer's user would
have to know two environment variables. A peer that is not installed is left out, and said to be.

On a GPU the shapes are "124M gpu" and "1.5B gpu" (context 1,024), memory is the device's, and the variants are those
that make sense there. The model FLOPs utilisation (MFU) is of the measured GEMM rate.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable

import torch
from _turns import Step, in_turn, timed

from langwright.base.allocator import keep_freed_memory
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.planning.cost import training_flops_per_token
from langwright.planning.machine import gemm_rate
from langwright.training.learner import Learner
from langwright.training.muon import ITERATIONS
from langwright.training.recipe import TrainingRecipe

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SHAPES = {
    "small": {"layers": 6, "heads": 6, "width": 384, "context": 256, "vocabulary": 65, "batch": 16},
    "124M": {"layers": 12, "heads": 12, "width": 768, "context": 512, "vocabulary": 50304, "batch": 4},
    "124M gpu": {"layers": 12, "heads": 12, "width": 768, "context": 1024, "vocabulary": 50304, "batch": 32},
    "1.5B gpu": {"layers": 48, "heads": 25, "width": 1600, "context": 1024, "vocabulary": 50304, "batch": 8},
}
VARIANTS = (
    "langwright",
    "langwright compiled",
    "transformers bf16",
    "transformers bf16 compiled",
    "transformers bf16 explicit",
    "transformers bf16 explicit compiled",
    "transformers autocast explicit compiled",
    "transformers bf16 explicit compiled kept",
    "litgpt bf16",
    "litgpt bf16 compiled",
    "litgpt bf16 compiled kept",
)
GPU_VARIANTS = (
    "langwright",
    "langwright compiled",
    "transformers bf16",
    "transformers bf16 compiled",
    "litgpt bf16 compiled",
)


def config(shape: dict[str, int]) -> GPT2Config:
    """The GPT-2 config of a shape, without dropout."""
    return GPT2Config(
        vocab_size=shape["vocabulary"], n_positions=shape["context"], n_embd=shape["width"], n_layer=shape["layers"],
        n_head=shape["heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip


def ours(model: Model, compiled: bool) -> Step:
    """One step of our learner on a model where it lies, an adapter of it or all: backward, clip, AdamW."""
    learner = Learner(
        {"model": model}, TokenPrediction(compiled=compiled), torch.bfloat16, TrainingRecipe(learning_rate=1e-4)
    )
    if compiled:
        for block in model.body.blocks:
            block.compile(dynamic=False)

    def step(ids: torch.Tensor, targets: torch.Tensor) -> float:
        loss = learner.backward(TokenBatch(ids, targets, torch.ones(ids.shape, device=ids.device))).loss
        learner.clip()
        learner.step(1.0)
        return float(loss)

    return step


def plain(
    model: torch.nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], autocast: bool, loss_of: Loss
) -> Step:
    """The usual loop: bf16 weights with fp32 masters, or fp32 weights under autocast; cross-entropy, clip, AdamW."""
    parameters = list(model.parameters())
    masters = parameters if autocast else [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    if not autocast:
        model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(masters, lr=1e-4, fused=True)

    def step(ids: torch.Tensor, targets: torch.Tensor) -> float:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
            logits = forward(ids)
        loss = loss_of(logits, targets)
        loss.backward()
        if not autocast:
            for p, m in zip(parameters, masters, strict=True):
                m.grad, p.grad = None if p.grad is None else p.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if not autocast:
            with torch.no_grad():
                torch._foreach_copy_(parameters, masters)
        return float(loss)

    return step


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean loss as the peers write it."""
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def peers_loss(how: str, device: torch.device) -> Loss:
    """On a GPU a compiled model is given a compiled loss as well; on a CPU that gains nothing."""
    return torch.compile(cross_entropy, dynamic=False) if "compiled" in how and device.type == "cuda" else cross_entropy


def theirs(shape: dict[str, int], how: str, device: torch.device) -> Step:
    """GPT2LMHeadModel of transformers with SDPA attention."""
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel

    own = {name: value for name, value in vars(config(shape)).items() if name != "n_inner"}
    model = GPT2LMHeadModel(
        TheirConfig(
            **own,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="eager" if "explicit" in how else "sdpa",
        )
    )
    model = model.train().to(device)
    run = torch.compile(model, dynamic=False) if "compiled" in how else model
    return plain(model, lambda ids: run(ids).logits, "autocast" in how, peers_loss(how, device))


def litgpt(shape: dict[str, int], how: str, device: torch.device) -> Step:
    """The GPT of litgpt in the nearest shape: GPT-2's block, with rotary positions where GPT-2 learns a table."""
    from litgpt import GPT, Config

    model = GPT(
        Config(
            n_layer=shape["layers"], n_head=shape["heads"], n_embd=shape["width"], block_size=shape["context"],
            vocab_size=shape["vocabulary"], padded_vocab_size=shape["vocabulary"], bias=True, lm_head_bias=False,
            parallel_residual=False, rotary_percentage=1.0, norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP",
            intermediate_size=4 * shape["width"],
        )
    ).to(device)  # fmt: skip
    run = torch.compile(model, dynamic=False) if "compiled" in how else model
    return plain(model, run, False, peers_loss(how, device))


def measure(variant: str, shape: dict[str, int], steps: int, device: torch.device) -> dict[str, float]:
    """Speed and memory of a variant, and the GEMM rate here and now: a shared machine's speed swings."""
    name, _, how = variant.partition(" ")

    def make() -> Step:
        if name == "langwright":
            keep_freed_memory()
            return ours(new_model("gpt2", config(shape)).to(device), "compiled" in how)
        return (theirs if name == "transformers" else litgpt)(shape, how, device)

    found = timed(make, shape["vocabulary"], shape["batch"], shape["context"], steps, device)
    return found | {"ceiling": gemm_rate(device, torch.bfloat16)}


def main() -> None:
    """Measure all variants in turn and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.variant:
        print(json.dumps(measure(options.variant, SHAPES[options.shape[0]], options.steps, device)))
        return
    variants = VARIANTS if device.type == "cpu" else GPU_VARIANTS
    missing = {v.split()[0] for v in variants if not _there(v.split()[0])}
    if missing:
        print(f"not installed, and left out: {', '.join(sorted(missing))} (make bench-training installs them)")
    for name in options.shape or [name for name in SHAPES if ("gpu" in name) == (device.type != "cpu")]:
        arguments = ["--shape", name, "--steps", str(options.steps), "--device", options.device]
        present = [v for v in variants if v.split()[0] not in missing]
        print_table(name, in_turn(__file__, present, options.rounds, arguments))


def _there(package: str) -> bool:
    needs = {"litgpt": ("litgpt", "lightning")}.get(package, (package,))
    return all(importlib.util.find_spec(name) for name in needs)


def print_table(name: str, found: dict[str, list[dict[str, float]]]) -> None:
    """One Markdown table for a shape, and what Muon would add to a step of it."""
    shape = SHAPES[name]
    model = new_model("gpt2", config(shape))
    flops = training_flops_per_token(model, shape["context"])
    best = {v: statistics.median(r["tokens_per_second"] for r in runs) for v, runs in found.items()}
    peers = {v: speed for v, speed in best.items() if not v.startswith("langwright")}
    plain = max((speed for v, speed in peers.items() if "kept" not in v), default=0.0)
    kept = max(peers.values(), default=0.0)
    print(f"\n{name}: {shape}; the GEMM rate is measured after each variant, in bfloat16\n")
    print("| variant | tokens/s | best peer | and with kept memory | of the GEMM rate | first step | peak memory |")
    print("|---|---|---|---|---|---|---|")
    for variant, runs in found.items():
        ratios = [f"{best[variant] / speed:.2f}x" if speed else "-" for speed in (plain, kept)]
        first = statistics.median(r["first_step"] for r in runs)
        memory = statistics.median(r["memory"] for r in runs) / 2**20
        share = statistics.median(r["tokens_per_second"] * flops / r["ceiling"] for r in runs)
        cells = [variant, f"{best[variant]:,.0f}", *ratios, f"{share:.0%}", f"{first:.1f} s", f"{memory:,.0f} MiB"]
        print("| " + " | ".join(cells) + " |")
    matrices = [sorted(p.shape) for n, p in model.body.named_parameters() if p.ndim == 2 and not n.startswith("embed.")]
    muon = sum(ITERATIONS * (4 * short**2 * long + 2 * short**3) for short, long in matrices)
    step = flops * shape["batch"] * shape["context"]
    print(
        f"\nMuon's Newton-Schulz: {muon / 1e9:,.1f} GFLOP a step, {muon / step:.1%} of the model's {step / 1e9:,.0f}."
    )


if __name__ == "__main__":
    main()
