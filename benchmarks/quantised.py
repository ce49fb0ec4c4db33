"""Quantised weights: memory of training, predicted and measured; and time of one product and of writing a token.

    python benchmarks/quantised.py [--depth 6] [--rows 4] [--context 256] [--dtype bfloat16] [--only speed]

Each measurement of memory runs in a process of its own: it is what the process's peak of resident memory grew by from
the moment before the model was there. A step of another, tiny model has loaded the kernels by then. The prediction is
`_memory.py`. Times are medians; one thread.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from _memory import training_memory
from torch import Tensor

from langwright.adaptation.methods.lora import LoRA
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.models.surgery.quantise import scheme_of
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.parts.cache import KVCache
from langwright.parts.linear import Linear
from langwright.parts.quantised import FourBitBlocks, Int8Rows, IntGroups, Packed, QuantisedLinear
from langwright.training.learner import Learner
from langwright.training.recipe import TrainingRecipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
VOCABULARY = 4096
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, averages in 8 bits": {"optimizer": 8},
    "full, recomputed": {"recompute": True},
    "LoRA": {"rank": 16},
    "LoRA, recomputed": {"rank": 16, "recompute": True},
    "QLoRA (nf4)": {"rank": 16, "bits": "nf4"},
    "QLoRA (nf4), recomputed": {"rank": 16, "bits": "nf4", "recompute": True},
}
QUANTISE: dict[str, Callable[[Tensor], Packed]] = {
    "int8": Int8Rows.quantise,
    "int4": IntGroups.quantise,
    "nf4": FourBitBlocks.quantise,
}


def model_of(depth: int, context: int, bits: str | None = None, rank: int = 0) -> Model:
    """A LLaMA, rounded and with LoRA on all its linear maps if asked for."""
    model = new_model("llama", by_depth("llama", depth, VOCABULARY, context, dropout=0.0))
    if bits is not None:
        for name, module in list(model.body.blocks.named_modules()):
            if isinstance(module, Linear):
                packed = scheme_of(bits).quantise(module.weight.detach())
                model.body.blocks.set_submodule(name, QuantisedLinear(packed))
    if rank:
        LoRA(rank=rank, target="all-linear").attach(model)
    return model


def steps(model: Model, rows: int, context: int, dtype: torch.dtype, optimizer: int) -> float:
    """Two steps of training; seconds of the second."""
    learner = Learner(
        {"model": model}, TokenPrediction(), dtype, TrainingRecipe(learning_rate=1e-4, optimizer_bits=optimizer)
    )
    ids = torch.randint(0, VOCABULARY, (rows, context + 1), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, context))
    began = 0.0
    for _ in range(2):
        began = time.perf_counter()
        learner.backward(batch)
        learner.clip()
        learner.step(1.0)
    return time.perf_counter() - began


def measure(way: str, depth: int, rows: int, context: int, dtype: torch.dtype) -> dict[str, Any]:
    """One line of the table, in this process."""
    what = {"optimizer": 32, "recompute": False, **WAYS[way]}
    make = {name: value for name, value in what.items() if name in ("bits", "rank")}
    steps(model_of(1, context, **make), 1, context, dtype, what["optimizer"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = model_of(depth, context, **make)
    model.body.recompute = what["recompute"]
    predicted = training_memory(model, rows, context, dtype, what["optimizer"])
    seconds = steps(model, rows, context, dtype, what["optimizer"])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"predicted": asdict(predicted), "total": predicted.total, "measured": 1024 * grown, "seconds": seconds}


def median_ms(call: Callable[[], object], repeats: int = 15) -> float:
    """Of some calls, the first two not counted."""
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[2:])


def products(dtype: torch.dtype) -> None:
    """A table of one 4096 x 1024 product, by rows of the input."""
    weight = torch.randn(4096, 1024)
    packed = {kind: make(weight) for kind, make in QUANTISE.items()}
    dense = weight.to(dtype)
    print(f"\nproduct with a 4096 x 1024 weight in {str(dtype).removeprefix('torch.')}, ms")
    print(f"| rows | dense | {' | '.join(packed)} |\n|{'---|' * (2 + len(packed))}")
    for rows in (1, 8, 64, 512):
        x = torch.randn(rows, 1024).to(dtype)
        times = [median_ms(lambda x=x: F.linear(x, dense))]
        times += [median_ms(lambda x=x, p=p: p.product(x)) for p in packed.values()]
        print(f"| {rows} | {' | '.join(f'{t:.2f}' for t in times)} |")


def writing(depth: int, context: int) -> None:
    """A table of tokens a second with a cache, and the memory of the weights, in bfloat16."""
    print("\nwriting one token after the other in bfloat16\n| weights | tokens/s | MiB of weights |\n|---|---|---|")
    for kind in (None, *QUANTISE):
        model = model_of(depth, context, kind).to(torch.bfloat16).eval()
        size = sum(t.nbytes for t in (*model.parameters(), *model.buffers())) / 2**20
        cache = KVCache(depth)
        token = torch.tensor([[5]])
        with torch.inference_mode():
            ms = median_ms(lambda model=model, cache=cache, token=token: model(token, state=cache), 25)
        print(f"| {kind or 'bfloat16'} | {1000 / ms:.0f} | {size:.1f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--way", help="measure this alone, and print JSON")
    parser.add_argument("--only", choices=("memory", "speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dtype = DTYPES[arguments.dtype]
    if arguments.way is not None:
        print(json.dumps(measure(arguments.way, arguments.depth, arguments.rows, arguments.context, dtype)))
        return
    if arguments.only != "speed":
        memory()
    if arguments.only != "memory":
        products(dtype)
        writing(arguments.depth, arguments.context)


def memory() -> None:
    """A table of what training takes, each line by a process of its own."""
    print("| training | weights | masters | gradients | optimizer | activations | predicted | measured | s a step |")
    print(f"|{'---|' * 9}")
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        cells = [f"{value / 2**20:.1f}" for value in (*told["predicted"].values(), told["total"], told["measured"])]
        print(f"| {way} | {' | '.join(cells)} | {told['seconds']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
