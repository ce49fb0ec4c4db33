"""The engine on one core: a beginning that was read before, and many texts that go on from one prompt.

    OMP_NUM_THREADS=1 python benchmarks/engine.py --shape 124M

Every table compares in one process and in turn, and gives medians.
"""

import argparse
import statistics
import time

import torch

from langwright import Engine, Request, Sampling
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model

SHAPES = {"tiny": (4, 256, 4), "124M": (12, 768, 12)}
"""Layers, width and heads."""
VOCABULARY, PREFIX, OWN = 32_000, 1000, 24
GREEDY = Sampling(temperature=0)


def model_of(shape: str) -> Model:
    """A model of the LLaMA line with random weights."""
    layers, width, heads = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return new_model("llama", config).eval()


def ids(count: int) -> list[int]:
    """Random ids of a prompt."""
    return torch.randint(VOCABULARY, (count,)).tolist()


def first_token(engine: Engine, prompt: list[int]) -> float:
    """Seconds from a request to its first token."""
    began = time.perf_counter()
    engine.finish([engine.add(Request(prompt, GREEDY, 1))])
    return time.perf_counter() - began


def prefix(model: Model, repeats: int) -> None:
    """Time to the first token of a request, and of later ones that begin in the same way."""
    engine = Engine(model, batch=2, longest=2048)
    first_token(engine, ids(40))
    print(f"\na beginning of {PREFIX:,} tokens and {OWN} of its own\n| request | ms to the first token | ratio |")
    print("|---|---|---|")
    cold, warm = [], []
    for _ in range(repeats):
        begin = ids(PREFIX)
        cold.append(first_token(engine, begin + ids(OWN)))
        warm += [first_token(engine, begin + ids(OWN)) for _ in range(3)]
    first, later = (statistics.median(times) for times in (cold, warm))
    print(f"| first | {1e3 * first:.0f} | 1 |\n| later | {1e3 * later:.0f} | {later / first:.3f} |", flush=True)


def crowd(model: Model, repeats: int, rows: int = 64, length: int = 128) -> None:
    """Steps of many texts, of one prompt and of one each."""
    print(f"\n{rows} texts after {length} tokens\n| prompts | ms a step | tokens/s |\n|---|---|---|")
    for name, same in (("one for all", True), ("one each", False)):
        engine = Engine(model, batch=rows, longest=length + 96)
        prompts = [ids(length)] * rows if same else [ids(length) for _ in range(rows)]
        for seed, prompt in enumerate(prompts):
            engine.add(Request(prompt, Sampling(seed=seed), 96))
        for _ in range(rows * length // 2048 + 2):  # the prompts are read
            engine.step()
        times = []
        for _ in range(4 * repeats):
            began = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - began)
        step = statistics.median(times)
        print(f"| {name} | {1e3 * step:.0f} | {rows / step:.0f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--only", choices=("prefix", "crowd"))
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    model = model_of(chosen.shape)
    for name, measure in (("prefix", prefix), ("crowd", crowd)):
        if chosen.only in (None, name):
            measure(model, chosen.repeats)


if __name__ == "__main__":
    main()
