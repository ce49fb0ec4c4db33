"""What HTTP costs over the engine, and time to the first token under load beside llama.cpp's server.

    OMP_NUM_THREADS=1 python benchmarks/serving.py --only cost
    OMP_NUM_THREADS=1 python benchmarks/serving.py --only first

Models have random weights of the same shape, 16 bits on both sides; prompts are random ids, texts greedy and of one
length. `cost`: the CPU time of the server's process for 16 requests at once, over that of an engine in a process of its
own for the same. `first`: 16 callers who ask again as soon as they are answered.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from decoding import SHAPES, config, write_gguf

from langwright import Engine, Request, Sampling
from langwright.inference.opening import Opening
from langwright.models.folder import new_model, save_model

CALLERS = 16
MEMORY = 512
"""Tokens of a text for which there is room."""

LLAMA_CPP = """
import sys, time, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path = sys.argv[1]
settings.n_parallel, settings.n_ctx, settings.verbosity = {callers}, {callers} * {memory}, 0
settings.port, settings.cache_ram_mib, settings.cache_prompt = 0, 0, False
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(sys.argv[2])
server = xllamacpp.Server(settings)
print("listening on", server.listening_address, flush=True)
time.sleep(3600)
"""


def make(folder: Path, name: str) -> None:
    """A folder of ours, and a file of llama.cpp."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    from langwright.text.special_tokens import SpecialTokens
    from langwright.text.tokenizer import Tokenizer

    shape, letters = SHAPES[name], sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = list(islice(product(letters, letters), shape.vocabulary - len(letters)))
    vocabulary = {token: number for number, token in enumerate([*letters, *map("".join, pairs)])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    model = new_model("llama", config(shape), seed=0).to(torch.bfloat16)
    save_model(model, Tokenizer(backend, SpecialTokens()), folder / "model")
    write_gguf(folder / "model.gguf", shape, 16)


@contextmanager
def started(command: list[str]) -> Iterator[tuple[int, str]]:
    """A process that says where it listens: its id, and host and port."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("listening on"))
        yield process.pid, re.sub(r"listening on (http://)?", "", line).strip()
    finally:
        process.kill()
        process.wait()


def ours(folder: Path, *words: str) -> list[str]:
    """The command of our server."""
    serve = [sys.executable, "-m", "langwright", "serve", str(folder / "model"), "--port", "0", "--dtype", "auto"]
    return [*serve, "--batch", str(CALLERS), "--longest", str(MEMORY), *words]


def theirs(folder: Path) -> list[str]:
    """That of llama.cpp's."""
    program = LLAMA_CPP.format(callers=CALLERS, memory=MEMORY)
    return [sys.executable, "-c", program, str(folder / "model.gguf"), str(torch.get_num_threads())]


def prompts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Random ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(300, 50_000, (length,), generator=generator).tolist() for _ in range(count)]


async def ask(address: str, body: dict[str, Any]) -> float:
    """The seconds until the first text of a request, whose answer is read to its end."""
    host, _, port = address.partition(":")
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    began, first, seen = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    while data := await reader.read(1 << 16):
        seen += data
        first = first or (time.perf_counter() - began if b'"choices"' in seen else 0.0)
    writer.close()
    assert first, seen[:300]
    return first


async def caller(address: str, bodies: list[dict[str, Any]]) -> list[float]:
    """Ask again as soon as an answer has come."""
    return [await ask(address, body) for body in bodies]


async def together(address: str, bodies: list[dict[str, Any]], each: int) -> list[float]:
    """So many bodies of each caller."""
    parts = [bodies[start : start + each] for start in range(0, len(bodies), each)]
    return [one for found in await asyncio.gather(*(caller(address, part) for part in parts)) for one in found]


def cpu(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def body(prompt: list[int], new: int, stream: bool) -> dict[str, Any]:
    """A request that both servers understand."""
    return {"prompt": prompt, "max_tokens": new, "temperature": 0, "stream": stream}


def engine_alone(folder: Path, length: int, new: int, rounds: int, answers: Any) -> None:
    """CPU seconds of an engine for the same requests, in each round."""
    engine = Engine(*Opening(dtype="auto").open(folder / "model"), batch=CALLERS, longest=MEMORY, prompt_tokens=512)
    found = []
    for seed in range(rounds + 1):
        began = time.process_time()
        asked = [Request(prompt, Sampling(temperature=0), new) for prompt in prompts(CALLERS, length, seed)]
        engine.finish([engine.add(request) for request in asked])
        found.append(time.process_time() - began)
    answers.put(found[1:])


def cost(folder: Path, length: int, new: int, rounds: int) -> None:
    """Print CPU time over the engine's own."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[float]] = {"engine": [], "whole": [], "streamed": []}
    answers = context.Queue()
    alone = context.Process(target=engine_alone, args=(folder, length, new, rounds, answers))
    alone.start()
    found["engine"] = answers.get()
    alone.join()
    with started(ours(folder)) as (pid, address):
        for seed in range(rounds + 1):
            for name, stream in (("whole", False), ("streamed", True)):
                bodies = [body(prompt, new, stream) for prompt in prompts(CALLERS, length, 100 * stream + seed)]
                began = cpu(pid)
                asyncio.run(together(address, bodies, 1))
                found[name] += [cpu(pid) - began] * (seed > 0)
    print(f"\n{CALLERS} requests at once, prompts of {length} tokens and {new} new ones")
    print("| | CPU seconds | ratio |\n|---|---|---|")
    base = statistics.median(found["engine"])
    for name, times in found.items():
        print(f"| {name} | {statistics.median(times):.2f} | {statistics.median(times) / base:.3f} |", flush=True)


def first(folder: Path, length: int, new: int, each: int) -> None:
    """Print times to the first token of both servers."""
    print(f"\n{CALLERS} callers, prompts of {length} tokens and {new} new ones, {CALLERS * each} requests")
    print("| server | ms to the first token, median | 99th percentile | tokens/s |\n|---|---|---|---|")
    for name, command in (("langwright", ours(folder)), ("llama.cpp", theirs(folder))):
        with started(command) as (_, address):
            asyncio.run(together(address, [body(p, 4, True) for p in prompts(CALLERS, length, 1)], 1))
            bodies = [body(prompt, new, True) for prompt in prompts(CALLERS * each, length)]
            began = time.perf_counter()
            times = sorted(asyncio.run(together(address, bodies, each)))
            speed = len(bodies) * new / (time.perf_counter() - began)
        late = times[min(len(times) - 1, round(0.99 * len(times)))]
        print(f"| {name} | {1e3 * statistics.median(times):.0f} | {1e3 * late:.0f} | {speed:.0f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--only", choices=("cost", "first"))
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=3, help="requests of each caller")
    parser.add_argument("--folder", type=Path, help="where models are kept")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        if not (folder / "model.gguf").exists():
            make(folder, chosen.shape)
        if chosen.only in (None, "cost"):
            cost(folder, chosen.prompt, chosen.new, chosen.rounds)
        if chosen.only in (None, "first"):
            first(folder, chosen.prompt, chosen.new, chosen.each)


if __name__ == "__main__":
    main()
