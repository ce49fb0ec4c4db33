"""Sixteen requests, each with an adapter of its own, beside sixteen of one model whose adapter is merged.

    python benchmarks/many_adapters.py [--dtype bfloat16]

A llama of 12 layers, 768 wide, with random weights; 64 tokens of prompt and 32 new ones. All variants in turn;
processor time, the median of the rounds.
"""

import argparse
import statistics
import time

import torch

from langwright.adaptation.attached import choose
from langwright.adaptation.method import Method
from langwright.adaptation.methods.ia3 import IA3
from langwright.adaptation.methods.lora import LoRA
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.adaptation.methods.prompt_tuning import PromptTuning
from langwright.inference.engine import Engine
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model

TEXTS, PROMPT, NEW = 16, 64, 32
METHODS: dict[str, Method] = {
    "LoRA, rank 8, q and v": LoRA(rank=8),
    "LoRA, rank 8, all linear layers": LoRA(rank=8, target="all-linear"),
    "IA3": IA3(),
    "prompt, 20 tokens": PromptTuning(20, "random"),
    "prefix, 20 tokens": PrefixTuning(20),
}


def made(dtype: torch.dtype) -> Model:
    """The model, whose adapters are still to come."""
    config = LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=2048,
    )  # fmt: skip
    return new_model("llama", config).to(dtype).eval()


def seconds(model: Model, names: list[str | None]) -> float:
    """How long the requests take."""
    engine = Engine(model, batch=TEXTS, longest=256)
    draws = torch.Generator().manual_seed(0)
    began = time.process_time()
    handles = [
        engine.add(Request(torch.randint(32000, (PROMPT,), generator=draws).tolist(), Sampling(0), NEW, adapter=name))
        for name in names
    ]
    engine.finish(handles)
    return time.process_time() - began


def main() -> None:
    """Measure every method beside the model alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    dtype = getattr(torch, asked.dtype)
    plain = made(dtype)
    models = {"one merged model": plain}
    for title, method in METHODS.items():
        models[title] = made(dtype)
        for number in range(TEXTS):
            method.attach(models[title], f"a{number}", number)
        choose(models[title])
    times: dict[str, list[float]] = {title: [] for title in models}
    for turn in range(1 + asked.rounds):
        for title, model in models.items():
            names = [None if model is plain else f"a{number}" for number in range(TEXTS)]
            took = seconds(model, names)  # type: ignore[arg-type]
            times[title] += [took] if turn else []  # the first only warms up
    alone = statistics.median(times["one merged model"])
    for title, taken in times.items():
        took = statistics.median(taken)
        print(f"{title}: {TEXTS * NEW / took:.0f} tokens/s, {alone / took:.2f}x")


if __name__ == "__main__":
    main()
