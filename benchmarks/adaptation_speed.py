"""Training speed of LoRA here and in `peft` on `transformers`: the same saved folder, in turn, in one run.

    python benchmarks/adaptation_speed.py [--shape small|124M] [--steps 10] [--rounds 2] [--device cpu|cuda]

One step is forward, loss, backward, clip and AdamW on random tokens; LoRA of rank 8 beside q and v of a LLaMA, or
beside the fused q, k, v of GPT-2. Each variant runs in a process of its own; peft at every setting named here, and
its best counts: adapters in float32 as it makes them, or in bfloat16 like the base; eager or compiled; "kept" as in
training_speed.py. Ours has float32 masters of the adapter in every case.
"""

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from _turns import Step, in_turn, timed
from training_speed import ours, peers_loss

from langwright import load_model
from langwright.adaptation.methods.lora import LoRA
from langwright.base.allocator import keep_freed_memory
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth

SHAPES = {
    "small": {"family": "llama", "targets": ("q_proj", "v_proj"), "vocabulary": 4096, "context": 256, "batch": 16},
    "124M": {"family": "gpt2", "targets": ("c_attn",), "vocabulary": 50304, "context": 512, "batch": 4},
}
VARIANTS = (
    "langwright",
    "langwright compiled",
    "peft",
    "peft bf16",
    "peft bf16 explicit",
    "peft bf16 compiled",
    "peft bf16 explicit compiled",
    "peft bf16 kept",
    "peft bf16 explicit compiled kept",
)
RANK = 8


def write_base(name: str, folder: Path) -> None:
    """The folder that every variant opens: fresh weights in bfloat16."""
    shape = SHAPES[name]
    if shape["family"] == "gpt2":
        config = GPT2Config(shape["vocabulary"], shape["context"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    else:
        config = by_depth("llama", 6, shape["vocabulary"], shape["context"], dropout=0.0)
    save_model(new_model(shape["family"], config).to(torch.bfloat16), None, folder)


def adapted(name: str, folder: Path, how: str, device: torch.device) -> Step:
    """One step of our learner on a LoRA."""
    keep_freed_memory()
    model = load_model(folder, device)
    LoRA(RANK, target=SHAPES[name]["targets"]).attach(model)
    return ours(model, "compiled" in how)


def theirs(name: str, folder: Path, how: str, device: torch.device) -> Step:
    """The usual loop on a peft model: cross-entropy, backward, clip, AdamW over what trains."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    attention = "eager" if "explicit" in how else "sdpa"
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=attention)
    settings = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=list(SHAPES[name]["targets"]),
        task_type="CAUSAL_LM",
        fan_in_fan_out=SHAPES[name]["family"] == "gpt2",
    )
    model = get_peft_model(base, settings, autocast_adapter_dtype="bf16" not in how).to(device).train()
    run = torch.compile(model, dynamic=False) if "compiled" in how else model
    loss_of = peers_loss(how, device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step(ids: torch.Tensor, targets: torch.Tensor) -> float:
        loss = loss_of(run(input_ids=ids, use_cache=False).logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def main() -> None:
    """Measure all variants in turn and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        device, name = torch.device(options.device), options.shape[0]
        who, _, how = options.variant.partition(" ")
        make = partial(adapted if who == "langwright" else theirs, name, options.folder, how, device)
        sizes = (SHAPES[name][size] for size in ("vocabulary", "batch", "context"))
        print(json.dumps(timed(make, *sizes, options.steps, device)))
        return
    for name in options.shape or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            write_base(name, Path(folder))
            arguments = ["--shape", name, "--folder", folder, "--steps", str(options.steps), "--device", options.device]
            print_table(name, in_turn(__file__, VARIANTS, options.rounds, arguments))


def print_table(name: str, found: dict[str, list[dict[str, float]]]) -> None:
    """One Markdown table for a shape."""
    speeds = {v: statistics.median(r["tokens_per_second"] for r in runs) for v, runs in found.items()}
    plain = max(speed for v, speed in speeds.items() if v.startswith("peft") and "kept" not in v)
    kept = max(speed for v, speed in speeds.items() if v.startswith("peft"))
    print(f"\n{name}: {SHAPES[name]}, LoRA of rank {RANK}\n")
    print("| variant | tokens/s | best of peft | and with kept memory | first step | peak memory |")
    print("|---|---|---|---|---|---|")
    for variant, runs in found.items():
        ratios = [f"{speeds[variant] / best:.2f}x" for best in (plain, kept)]
        first, memory = (statistics.median(r[key] for r in runs) for key in ("first_step", "memory"))
        cells = [variant, f"{speeds[variant]:,.0f}", *ratios, f"{first:.1f} s", f"{memory / 2**20:,.0f} MiB"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
