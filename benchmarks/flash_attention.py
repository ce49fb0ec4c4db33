"""Memory and time of four ways to compute the same causal attention, forward and backward, over the time T.

    python benchmarks/flash_attention.py [--times 256 512 1024 2048 4096] [--dtype float32] [--out flash_attention.html]

Each measurement runs in a process of its own. Memory is what the peak of the process's resident memory
(`ru_maxrss`) grew by from the moment the inputs were there: weights, tiles and gradients, whoever allocated them. A
short warm-up before that moment loads the kernels. Time is the best of three further passes.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from langwright.base.files import write_atomic
from langwright.parts.bias import Bias, Lowered, Places
from langwright.parts.causal_attention import attend_causally
from langwright.parts.flash_attention import attend_tiled
from langwright.parts.kernels import attend_explicitly, attend_fused
from langwright.viewing.charts import Axes, Series, line_chart
from langwright.viewing.page import Section, page

HEADS, HEAD_DIM = 8, 64


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula, with all scores and weights in memory."""
    bias = Lowered(causal=True).additive(q.shape[2], k.shape[2], q)
    return attend_explicitly(q, k, v, bias, HEAD_DIM**-0.5)[0]


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Ours, one tile at a time."""
    positions = torch.arange(q.shape[2])[None]
    return attend_tiled(q, k, v, Bias(causal=True), Places(positions, positions, True), HEAD_DIM**-0.5)


def blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The lower triangle in blocks of queries, its weights kept: what training takes in bfloat16 on a CPU."""
    return attend_causally(q, k, v, HEAD_DIM**-0.5)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention: the same idea as tiled, compiled."""
    return attend_fused(q, k, v, Lowered(causal=True), HEAD_DIM**-0.5)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "explicit": explicit,
    "tiled": tiled,
    "blocks": blocks,
    "SDPA": fused,
}


def measure(way: str, length: int, dtype: torch.dtype) -> dict[str, float]:
    """MiB and milliseconds of one forward and backward pass, in this process."""
    run = WAYS[way]

    def once(q: Tensor, k: Tensor, v: Tensor) -> None:
        run(q, k, v).backward(q.detach())

    def inputs(time: int) -> list[Tensor]:
        return [torch.randn(1, HEADS, time, HEAD_DIM, dtype=dtype, requires_grad=True) for _ in range(3)]

    once(*inputs(160))
    given = inputs(length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    once(*given)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        once(*given)
        seconds.append(time.perf_counter() - start)
    return {"MiB": grown / (1 << 20 if sys.platform == "darwin" else 1 << 10), "ms": 1000 * min(seconds)}


def plot(times: Sequence[int], found: dict[str, list[dict[str, float]]], about: str) -> str:
    """The page with both charts, offline in one file."""
    sections = []
    for key, name, label in (("MiB", "memory", "Memory, MiB"), ("ms", "time", "Time, ms")):
        series = [
            Series(way, times, [one[key] for one in found[way]], "points", colour) for colour, way in enumerate(WAYS)
        ]
        sections.append(Section(name, name.title(), line_chart(series, Axes("T", label))))
    return page("Attention in tiles", sections, about, "Langwright benchmark")


def main() -> None:
    """Measure every way at every time in a fresh process; print the table and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, default=Path("flash_attention.html"))
    parser.add_argument("--one", nargs=2, metavar=("WAY", "T"), help="measure this one here, and print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]), getattr(torch, arguments.dtype))))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    print("| T | " + " | ".join(f"{way}, MiB" for way in WAYS) + " | " + " | ".join(f"{w}, ms" for w in WAYS) + " |")
    print("|---|" + "---|" * 2 * len(WAYS))
    for length in arguments.times:
        for way in WAYS:
            command = [sys.executable, __file__, "--one", way, str(length), "--dtype", arguments.dtype]
            found[way].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        row = [f"{found[way][-1][key]:,.0f}" for key in ("MiB", "ms") for way in WAYS]
        print(f"| {length:,} | " + " | ".join(row) + " |", flush=True)
    about = (
        f"One forward and backward pass of causal attention: {HEADS} heads of {HEAD_DIM}, {arguments.dtype}, "
        f"{torch.get_num_threads()} CPU threads. Memory beyond the inputs; both upright axes are logarithmic."
    )
    write_atomic(arguments.out, plot(arguments.times, found, about))
    print(f"\nwrote {arguments.out}")


if __name__ == "__main__":
    main()
