"""What the training benchmarks share: one variant's steps timed in a process of its own, all variants in turn."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch

Step = Callable[[torch.Tensor, torch.Tensor], object]
"""One step of training on inputs and targets, each [batch, context]."""

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
"""Makes the C library keep freed memory, for variants with "kept" in their name."""


def timed(
    make: Callable[[], Step], vocabulary: int, batch: int, context: int, steps: int, device: torch.device
) -> dict[str, float]:
    """Tokens a second (median step), seconds to the end of the first step, and peak memory of process or device."""
    torch.manual_seed(0)
    ids = torch.randint(0, vocabulary, (batch, context + 1)).to(device)
    began = time.perf_counter()
    step = make()
    step(ids[:, :-1], ids[:, 1:])
    first = time.perf_counter() - began
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        step(ids[:, :-1], ids[:, 1:])
        times.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    return {"tokens_per_second": batch * context / statistics.median(times[2:]), "first_step": first, "memory": memory}


def in_turn(
    script: str, variants: Sequence[str], rounds: int, arguments: Sequence[str]
) -> dict[str, list[dict[str, float]]]:
    """What `script --variant V` prints, a JSON object, in each round; of variants that ran at least once."""
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant, runs in found.items():
            environment = {**os.environ, **(KEPT if "kept" in variant else {})}
            command = [sys.executable, script, "--variant", variant, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
                print(f"{variant}: {said[-1]}", file=sys.stderr)
            else:
                runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {variant: runs for variant, runs in found.items() if runs}
