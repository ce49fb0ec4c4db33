"""Decoding on the CPU beside llama.cpp and transformers: one text, 256 tokens of prompt, 128 new ones, greedy.

    python benchmarks/decoding.py --shape 124M|1.1B --bits 16,8,4 --peers xllamacpp,transformers [--rounds 3]

One line a variant: `name tokens/s ratio`, the ratio being to llama.cpp with as many bits (transformers: with 16), then
what a token reads and the share of the measured bandwidth that this is, and the tokens of the prompt that are read a
second. Each variant runs in a process of its own, in turn, with random weights of the same shapes; medians of rounds.
Linear layers have 16, 8 or 4 bits, the token table and the head 16, on both sides: ours bfloat16, int8 by rows (8.02
bits) and int4 in groups of 64 (4.5 bits); llama.cpp's F16, Q8_0 (8.5 bits) and Q4_0 (4.5 bits).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _turns import in_turn

from langwright.inference.engine import Engine
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.models.folder import new_model
from langwright.models.gguf.writing import Type, write_gguf
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.models.surgery.quantise import scheme_of
from langwright.parts.linear import Linear
from langwright.parts.quantised import QuantisedLinear
from langwright.planning.machine import read_bandwidth
from langwright.text.gguf import tokenizer_fields
from langwright.text.training import raw_bytes


class Shape(NamedTuple):
    """Of a LLaMA."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    tied: bool


SHAPES = {
    "124M": Shape(12, 768, 12, 12, 2048, 50304, True),
    "1.1B": Shape(22, 2048, 32, 4, 5632, 32000, False),
}
PROMPT, NEW, CONTEXT = 256, 128, 4096
GGML: dict[int, Type] = {16: "f16", 8: "q8_0", 4: "q4_0"}


def config(shape: Shape) -> Any:
    """Our config of a shape."""
    from dataclasses import replace

    plain = by_depth("llama", shape.layers, shape.vocabulary, CONTEXT, dropout=0.0, width=shape.width)
    return replace(
        plain,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.width // shape.heads,
        intermediate_size=shape.hidden,
        tie_word_embeddings=shape.tied,
    )


def ours(shape: Shape, bits: int, prompt: int, new: int) -> tuple[float, float, int]:
    """Tokens a second of the prompt and after it, and bytes that a token reads."""
    model: Model = new_model("llama", config(shape), seed=0).to(torch.bfloat16).eval()
    if bits < 16:
        for name, module in list(model.body.blocks.named_modules()):
            if isinstance(module, Linear):
                packed = scheme_of(bits).quantise(module.weight.detach())
                model.body.blocks.set_submodule(name, QuantisedLinear(packed))
    held = sum(t.nbytes for t in (*model.body.blocks.parameters(), *model.body.blocks.buffers()))
    head = 2 * shape.vocabulary * shape.width

    def write(count: int) -> tuple[float, float]:
        engine = Engine(model, None, batch=1, longest=prompt + new)
        ids = torch.randint(2, shape.vocabulary, (prompt,), generator=torch.Generator().manual_seed(0)).tolist()
        engine.add(Request(tuple(ids), Sampling(temperature=0), max_new_tokens=count))
        began = time.perf_counter()
        engine.step()
        read = time.perf_counter()
        while engine.busy:
            engine.step()
        return prompt / (read - began), (count - 1) / (time.perf_counter() - read)

    write(4)
    reading, writing = write(new)
    return reading, writing, held + head + kept(shape, prompt, new)


def kept(shape: Shape, prompt: int, new: int) -> int:
    """Bytes of keys and values that a token reads, on average, in 16 bits."""
    return 4 * shape.layers * shape.kv_heads * (shape.width // shape.heads) * (prompt + new // 2)


def write_file(path: Path, shape: Shape, bits: int) -> None:
    """A file of llama.cpp with random weights; the token table and the head have 16 bits."""
    model = new_model("llama", config(shape), seed=0)
    fields = tokenizer_fields(raw_bytes(), shape.vocabulary)
    write_gguf(path, model, dict(model.named_parameters()), fields, GGML[bits], tables="f16")


def llama_cpp(shape: Shape, bits: int, prompt: int, new: int, folder: Path) -> tuple[float, float, int]:
    """The same of llama.cpp."""
    import xllamacpp

    path = folder / f"{shape.layers}-{bits}.gguf"
    if not path.exists():
        write_file(path, shape, bits)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_parallel, settings.verbosity, settings.cache_ram_mib = CONTEXT, 1, 0, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(settings)
    ids = torch.randint(2, shape.vocabulary, (prompt,), generator=torch.Generator().manual_seed(0)).tolist()
    told: dict[str, Any] = {}
    for count in (4, new):
        asked = {"prompt": ids, "n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(asked)
        told = (json.loads(answer) if isinstance(answer, str) else answer)["timings"]
    table = 0 if shape.tied else 2 * shape.vocabulary * shape.width
    size = path.stat().st_size - table + kept(shape, prompt, new)
    return told["prompt_per_second"], told["predicted_per_second"], size


def transformers(shape: Shape, prompt: int, new: int) -> tuple[float, float, int]:
    """The same of transformers in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    plain = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.hidden, eos_token_id=None,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied, max_position_embeddings=CONTEXT, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(plain).eval()
    ids = torch.randint(2, shape.vocabulary, (1, prompt), generator=torch.Generator().manual_seed(0))

    def seconds(count: int) -> float:
        began = time.perf_counter()
        model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        return time.perf_counter() - began

    seconds(2)
    first, whole = seconds(1), seconds(new)
    table = 0 if shape.tied else shape.vocabulary * shape.width
    size = 4 * (sum(p.numel() for p in model.parameters()) - table) + 2 * kept(shape, prompt, new)
    return prompt / first, (new - 1) / (whole - first), size


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--bits", default="16,8,4")
    parser.add_argument("--peers", default="xllamacpp,transformers")
    parser.add_argument("--prompt", type=int, default=PROMPT)
    parser.add_argument("--new", type=int, default=NEW)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", help="run this alone, and print JSON")
    parser.add_argument("--folder", type=Path, help="where files for llama.cpp are kept")
    told = parser.parse_args()
    if told.variant is not None:
        name, bits = told.variant.rsplit("-", 1)
        shape, lengths = SHAPES[told.shape], (told.prompt, told.new)
        bandwidth = read_bandwidth()
        if name == "langwright":
            found = ours(shape, int(bits), *lengths)
        else:
            found = (
                llama_cpp(shape, int(bits), *lengths, told.folder) if bits != "32" else transformers(shape, *lengths)
            )
        print(json.dumps(dict(zip(("prompt", "new", "bytes", "bandwidth"), (*found, bandwidth), strict=True))))
        return
    every = told.bits.split(",")
    names = ["langwright", *(["llama.cpp"] if "xllamacpp" in told.peers else [])]
    variants = [f"{name}-{bits}" for bits in every for name in names]
    variants += ["transformers-32"] if "transformers" in told.peers else []
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--shape", told.shape, "--prompt", str(told.prompt), "--new", str(told.new)]
        runs = in_turn(__file__, variants, told.rounds, [*arguments, "--folder", str(told.folder or folder)])
    report(runs)


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    """Print medians, ratios, and shares of the bandwidth."""
    medians = {n: {key: statistics.median(r[key] for r in rows) for key in rows[0]} for n, rows in runs.items()}
    bandwidth = statistics.median(row["bandwidth"] for rows in runs.values() for row in rows)
    print(f"# bandwidth: {bandwidth / 1e9:.1f} GB/s, {torch.get_num_threads()} threads", file=sys.stderr)
    for name, found in medians.items():
        bits = name.rsplit("-", 1)[1]
        peer = medians.get(f"llama.cpp-{16 if bits == '32' else bits}") or medians.get("transformers-32") or found
        share = found["new"] * found["bytes"] / bandwidth
        print(
            f"{name} {found['new']:.1f} {found['new'] / peer['new']:.2f}  # {found['bytes'] / 1e6:.0f} MB a token, "
            f"{share:.0%} of the bandwidth; prompt {found['prompt']:.0f} tokens/s"
        )


if __name__ == "__main__":
    main()
