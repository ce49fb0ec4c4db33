"""The engine: a beginning that was read before, many texts at once, caches, guesses, and texts of a form.

    python benchmarks/engine.py --shape 124M [--only prefix|crowd|cache|server|lookup|schema] [--dtype bfloat16]

Every table compares in one process and in turn, and gives medians. `server` needs llama.cpp (xllamacpp and gguf).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from langwright import Engine, Request, Sampling
from langwright.inference.constraints import Constraint
from langwright.inference.paged import PagedCache
from langwright.inference.speculation import PromptLookup, Speculation
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.text.training import train_bpe

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


def cache(model: Model, repeats: int, before: int = 2016) -> None:
    """Steps after a long text with keys and values as they are, and in 8 bits: both engines in turn, step by step."""
    for rows in (1, 8):
        engines = {name: Engine(model, batch=rows, longest=2048, cache=name) for name in ("full", "int8")}
        times: dict[str, list[float]] = {name: [] for name in engines}
        for engine in engines.values():
            for seed in range(rows):
                engine.add(Request(ids(before), Sampling(seed=seed), 32))
            for _ in range(rows * before // 2048 + 3):  # the prompts are read
                engine.step()
        for _ in range(8 * repeats):
            for name, engine in engines.items():
                began = time.perf_counter()
                engine.step()
                times[name].append(time.perf_counter() - began)
        ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
        print(f"\n{rows} texts after {before:,} tokens\n| cache | MB | ms a step | ratio |\n|---|---|---|---|")
        for name, one in zip(engines, (1.0, ratio), strict=True):
            size = rows * 128 * PagedCache.block_bytes(model, 16, name) / 1e6
            print(f"| {name} | {size:.0f} | {1e3 * statistics.median(times[name]):.1f} | {one:.2f} |", flush=True)


def written(engine: Engine, requests: list[Request]) -> float:
    """Tokens a second of all requests at once, their prompts included in the time."""
    began = time.perf_counter()
    handles = [engine.add(request) for request in requests]
    engine.finish(handles)
    return sum(len(handle.completions[0].ids) for handle in handles) / (time.perf_counter() - began)


def in_turn(title: str, variants: dict[str, Callable[[], float]], repeats: int) -> None:
    """A table of tokens a second; ratios to the first variant, each the median of those of one round."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            found[name].append(run())
    first = next(iter(found.values()))
    print(f"\n{title}\n| | tokens/s | ratio |\n|---|---|---|")
    for name, speeds in found.items():
        ratio = statistics.median(a / b for a, b in zip(speeds, first, strict=True))
        print(f"| {name} | {statistics.median(speeds):.1f} | {ratio:.2f} |", flush=True)


def server(model: Model, repeats: int) -> None:
    """Many requests of mixed lengths beside llama.cpp's server with as many slots: 124M in 16 bits on both sides."""
    import decoding

    model = new_model("llama", decoding.config(decoding.SHAPES["124M"]), seed=0).to(torch.bfloat16).eval()
    for count in (16, 64):
        beside(model, count, repeats)


def beside(model: Model, count: int, repeats: int) -> None:
    """So many requests: prompts of 32 to 256 tokens, 16 to 128 new ones."""
    import decoding
    import xllamacpp

    lengths = torch.randint(0, 113, (count, 2), generator=torch.Generator().manual_seed(count)).tolist()
    asked = [(ids(32 + 2 * a), 16 + b) for a, b in lengths]
    settings = xllamacpp.CommonParams()
    settings.n_ctx, settings.n_parallel, settings.verbosity, settings.cache_ram_mib = 512 * count, count, 0, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        settings.model.path = str(Path(folder) / "model.gguf")
        decoding.write_gguf(Path(settings.model.path), decoding.SHAPES["124M"], 16)
        peer = xllamacpp.Server(settings)
    options = {"temperature": 0, "ignore_eos": True, "cache_prompt": False}

    def theirs() -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(count) as threads:
            bodies = [{"prompt": prompt, "n_predict": new, **options} for prompt, new in asked]
            list(threads.map(peer.handle_completions, bodies))
        return sum(new for _, new in asked) / (time.perf_counter() - began)

    def ours() -> float:
        engine = Engine(model, batch=count, longest=512)
        return written(engine, [Request(prompt, GREEDY, new) for prompt, new in asked])

    in_turn(f"{count} requests at once", {"llama.cpp's server": theirs, "langwright": ours}, repeats)


def lookup(model: Model, repeats: int) -> None:
    """Guesses looked up in the text, where it repeats itself and where it does not."""

    def speed(sampling: Sampling, guesses: Speculation | None) -> float:
        engine = Engine(model, batch=1, longest=512, speculation=guesses)
        return written(engine, [Request(ids(32) * 4, sampling, 128)])

    for name, sampling in (("that repeats", GREEDY), ("without repetitions", Sampling(seed=0))):
        variants = {"plain": lambda: speed(sampling, None), "lookup": lambda: speed(sampling, PromptLookup())}  # noqa: B023
        in_turn(f"a text {name}", variants, repeats)


def schema(model: Model, repeats: int) -> None:
    """JSON of a schema beside free text of the same length."""
    tokenizer = train_bpe(
        (path.read_text(errors="replace") for path in Path(json.__file__).parents[1].glob("*.py")), 32_000
    )
    item = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "count": {"type": "integer"}}}
    item |= {"required": ["name", "count"], "additionalProperties": False}
    form = Constraint("json_schema", json.dumps({"type": "array", "items": item, "minItems": 100}))

    def speed(rows: int, constraint: Constraint | None) -> float:
        engine = Engine(model, tokenizer, batch=rows, longest=512)
        each = (Request(list(range(4, 36)), Sampling(seed=seed), 96, constraint=constraint) for seed in range(rows))
        return written(engine, list(each))

    for rows in (1, 16):
        speed(rows, form)
        variants = {"free": lambda: speed(rows, None), "JSON of a schema": lambda: speed(rows, form)}  # noqa: B023
        in_turn(f"{rows} texts at once", variants, repeats)


TABLES = {"prefix": prefix, "crowd": crowd, "cache": cache, "server": server, "lookup": lookup, "schema": schema}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    chosen = parser.parse_args()
    model = model_of(chosen.shape).to(getattr(torch, chosen.dtype))
    for name, measure in TABLES.items():
        if chosen.only in (None, name):
            measure(model, chosen.repeats)


if __name__ == "__main__":
    main()
