"""An LSTM beside a bare loop of torch.nn, and beside a transformer of as many parameters, in one run, in turn.

    python benchmarks/recurrent.py [--seconds 2] [--longest 4096]

"bare" is the step of a loop in ten lines: nn.Embedding, nn.LSTM, nn.Linear, cross-entropy, clipping and SGD, the memory
carried. The transformer is a LLaMA of the same width whose depth makes its blocks about as large. "train" is a whole
step of 4,096 tokens in rows of T, "decode" greedy tokens after a prompt of T, "kept" what is held of that prompt. All
are medians in float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from langwright.base.allocator import keep_freed_memory
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth, preset
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.parts.cache import KVCache
from langwright.parts.carry import CarriedState
from langwright.planning.cost import parameters
from langwright.training.learner import Learner
from langwright.training.recipe import TrainingRecipe

SGD = TrainingRecipe(optimizer="sgd", learning_rate=1.0, clip=0.25)


def in_turn(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def ours(model: Model, ids: torch.Tensor) -> Callable[[], float]:
    """A step of training; recurrent models carry their memory."""
    learner, carried = Learner({"model": model}, TokenPrediction(), torch.float32, SGD), [CarriedState()]

    def step() -> float:
        carried[0] = CarriedState(carried[0].after())
        state = carried[0] if model.body.carries else None
        loss = learner.backward(TokenBatch(ids[:, :-1], ids[:, 1:], torch.ones(ids[:, 1:].shape), state=state)).loss
        learner.clip()
        learner.step(1.0)
        return float(loss)

    return step


def bare(vocabulary: int, width: int, ids: torch.Tensor) -> Callable[[], float]:
    """The same with nothing but torch.nn."""
    model = nn.ModuleList(
        (nn.Embedding(vocabulary, width), nn.LSTM(width, width, 2, batch_first=True), nn.Linear(width, vocabulary))
    )
    embed, lstm, head = model
    optimizer, memory = torch.optim.SGD(model.parameters(), lr=1.0), None

    def step() -> float:
        nonlocal memory
        optimizer.zero_grad()
        y, memory = lstm(embed(ids[:, :-1]), memory)
        memory = tuple(part.detach() for part in memory)
        loss = F.cross_entropy(head(y).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        return loss.item()

    return step


@torch.inference_mode()
def decoding(model: Model, prompt: int) -> tuple[Callable[[], object], int]:
    """Writes eight tokens after a prompt, again and again; and the numbers that are kept of the prompt."""
    model.eval()
    layers = range(len(model.body.blocks))
    state = KVCache(len(layers), model.body.own_slots())
    model(torch.zeros(1, prompt, dtype=torch.long), state=state)
    slots: list[Any] = [state.slot(layer) for layer in layers]
    kept = sum(slot.read().numel() if model.body.carries else 2 * slot.keys.numel() for slot in slots)

    @torch.inference_mode()
    def write() -> None:
        for _ in range(8):
            hidden = model.body(torch.zeros(1, 1, dtype=torch.long), state=state)
            model.head(hidden[:, -1]).argmax(-1)

    return write, kept


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=2.0)
    options.add_argument("--longest", type=int, default=4096)
    chosen = options.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    print("| vocabulary | width | rows x T | ours, ms | bare, ms | ratio |\n|---|---|---|---|---|---|")
    for vocabulary, width, rows, time_steps in ((10_000, 200, 20, 20), (10_000, 200, 20, 35), (300, 256, 16, 64)):
        _, config = preset("lstm-small", vocabulary, None, 0.0)
        ids = torch.randint(vocabulary, (rows, time_steps + 1))
        model = new_model("lstm", replace(config, hidden_size=width))
        found = in_turn({"ours": ours(model, ids), "bare": bare(vocabulary, width, ids)}, chosen.seconds)
        mine, theirs = (1e3 * seconds for seconds in found.values())
        print(
            f"| {vocabulary} | {width} | {rows} x {time_steps} | {mine:.1f} | {theirs:.1f} | {theirs / mine:.2f} |",
            flush=True,
        )
    shapes: dict[str, Any] = {
        "lstm": by_depth("lstm", 3, 4096, 1, 0.0, 256),
        "llama": by_depth("llama", 2, 4096, 8192, 0.0, 256),
    }
    sizes = ", ".join(f"{name} {parameters(new_model(name, config)) / 1e6:.2f}M" for name, config in shapes.items())
    print(f"\n{sizes} parameters\n")
    print("| T | train lstm, tokens/s | llama | decode lstm, tokens/s | llama | kept lstm, numbers | llama |")
    print("|---|---|---|---|---|---|---|")
    lengths = [length for length in (64, 256, 1024, 4096) if length <= chosen.longest]
    for length in lengths:
        ids = torch.randint(4096, (max(1, 4096 // length), length + 1))
        train = in_turn({name: ours(new_model(name, config), ids) for name, config in shapes.items()}, chosen.seconds)
        writers = {name: decoding(new_model(name, config), length) for name, config in shapes.items()}
        decode = in_turn({name: write for name, (write, _) in writers.items()}, chosen.seconds)
        cells = [
            *(f"{ids[:, 1:].numel() / s:,.0f}" for s in train.values()),
            *(f"{8 / s:,.0f}" for s in decode.values()),
        ]
        print("|", " | ".join([str(length), *cells, *(f"{kept:,}" for _, kept in writers.values())]), "|", flush=True)


if __name__ == "__main__":
    main()
