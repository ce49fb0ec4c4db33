"""Six families beside transformers: the same folders, in one run, in turn; forward, step, decoding, loading, memory.

    python benchmarks/families.py [--family gpt2 ...] [--dtype float32 ...] [--device cpu] [--seconds 1.5]
    python benchmarks/families.py --profile t5 "decode 1" [--dtype float32]

A folder of each family, with random weights, is opened by both. transformers runs with SDPA and with its eager
attention, and the faster one counts for each workload by itself. A cell is how many times as fast we are, and our
median; below 0.98 it is bold. "forward B x T" is one pass without gradients, "step B x T" is forward, cross-entropy and
backward, "decode B" is greedy text with the cache after a prompt of 32 tokens, each through the library's own
`generate`; T5 reads a source and writes a target of T tokens each. "load" opens the folder, its pages in memory. "peak"
is what loading and one step of 4 x 128 add to the memory of a fresh process. All but the peak is timed in one process
whose allocator keeps what both sides free, as our training does: else page faults decide, and they come by chance.
"""

import argparse
import gc
import importlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from langwright import load_model
from langwright.base.allocator import keep_freed_memory
from langwright.inference.engine import Engine
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.models.families.bert import BertConfig
from langwright.models.families.gemma import GemmaConfig
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.llama import FULL, SLIDING, LlamaConfig
from langwright.models.families.mixtral import MixtralConfig
from langwright.models.families.t5 import T5Config
from langwright.models.folder import new_model, save_model

Run = Callable[[], object]

VOCABULARY, PROMPT, NEW, NEVER_BELOW = 16384, 32, 48, 0.98
SHAPES, ROWS = ((1, 16), (4, 128)), (1, 8)
WORKLOADS = (
    *(f"{kind} {b} x {t}" for kind in ("forward", "step") for b, t in SHAPES), *(f"decode {b}" for b in ROWS), "load",
    "peak",
)  # fmt: skip
LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "gpt2": GPT2Config(VOCABULARY, 1024, 512, 8, 8, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "llama": LlamaConfig(**LLAMA),
    "gemma2": GemmaConfig(
        **LLAMA | {"num_attention_heads": 4, "head_dim": 128}, tie_word_embeddings=True, sliding_window=64,
        layer_types=(SLIDING, FULL) * 4, query_pre_attn_scalar=128, attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
    ),
    "mixtral": MixtralConfig(**LLAMA | {"intermediate_size": 512}),
    "bert": BertConfig(VOCABULARY, 512, 8, 8, 2048, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "t5": T5Config(
        VOCABULARY, 512, 64, 1024, 8, dropout_rate=0.0, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
}  # fmt: skip
"""Real proportions, 21 to 56 million parameters."""
CLASSES = {"bert": transformers.AutoModelForMaskedLM, "t5": transformers.AutoModelForSeq2SeqLM}
OURS, SDPA, EAGER = "langwright", "sdpa", "eager"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Side:
    """One of the libraries with its model open.

    writes: whether the model continues texts. logits: of ids [B, T]. decode: text after prompts [B, T].
    """

    writes: bool
    model: Any
    logits: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], object]


def names(family: str) -> tuple[str, ...]:
    """The sides that open a family: transformers has no Gemma 2 on SDPA."""
    return (OURS, EAGER) if family == "gemma2" else (OURS, SDPA, EAGER)


def open_side(name: str, family: str, folder: Path, dtype: torch.dtype, device: str) -> Side:
    """The model of a folder as one side opens it, and how that side is asked."""
    if name == OURS:
        model: Any = load_model(folder, device, dtype)
        two = bool(model.encoders)
        return Side(
            family != "bert", model, lambda ids: model(ids, ids) if two else model(ids), partial(decode_ours, model)
        )
    kind = CLASSES.get(family, transformers.AutoModelForCausalLM)
    model = kind.from_pretrained(folder, dtype=dtype, attn_implementation=name).to(device).eval()
    if family != "bert":
        model.generation_config.eos_token_id = None  # all texts are NEW tokens long

    def logits(ids: Tensor) -> Tensor:
        return model(ids, decoder_input_ids=ids).logits if family == "t5" else model(ids).logits

    def decode(ids: Tensor) -> object:
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)

    return Side(family != "bert", model, logits, decode)


def decode_ours(model: Any, ids: Tensor) -> object:
    """Greedy text by our own engine."""
    engine = Engine(model, batch=len(ids), longest=ids.shape[1] + NEW)
    return engine.finish([engine.add(Request(row, Sampling(temperature=0), NEW)) for row in ids.tolist()])


def step(side: Side, ids: Tensor) -> None:
    """Forward, loss and backward; the gradients are dropped."""
    F.cross_entropy(side.logits(ids).float().flatten(0, 1), ids.flatten()).backward()
    for parameter in side.model.parameters():
        parameter.grad = None


def workloads(side: Side, device: str) -> dict[str, Run]:
    """What one side is asked to do."""

    def ids(rows: int, time: int) -> Tensor:
        return torch.randint(3, VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(rows)).to(device)

    def forward(given: Tensor) -> None:
        with torch.inference_mode():
            side.logits(given)

    runs: dict[str, Run] = {f"forward {b} x {t}": partial(forward, ids(b, t)) for b, t in SHAPES}
    runs |= {f"step {b} x {t}": partial(step, side, ids(b, t)) for b, t in SHAPES}
    return runs | {f"decode {b}": partial(side.decode, ids(b, PROMPT)) for b in ROWS if side.writes}


def in_turn(runs: dict[str, Run], seconds: float, device: str) -> dict[str, float]:
    """The median seconds of each, all of them run once a round, until `seconds` for each are spent."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds * len(runs) or len(times[OURS]) < 4:
        for name, run in runs.items():
            wait(device)
            start = time.perf_counter()
            run()
            wait(device)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def compare(
    family: str, folder: Path, dtype: torch.dtype, device: str, seconds: float, wanted: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Seconds of each wanted workload on each side."""
    sides = {name: open_side(name, family, folder, dtype, device) for name in names(family)}
    ids = torch.arange(3, 67, device=device)[None]
    with torch.inference_mode():
        ours, theirs = (sides[name].logits(ids).float() for name in (OURS, EAGER))  # what is compared is the same
    off = float((ours - theirs).abs().median() / theirs.abs().median())
    assert off < (1e-4 if dtype == torch.float32 else 0.1), f"{family}: logits differ, the middle one by {off:.1e}"
    each = {name: workloads(side, device) for name, side in sides.items()}
    found = {}
    for work in [work for work in each[OURS] if work in wanted]:
        found[work] = in_turn({name: runs[work] for name, runs in each.items()}, seconds, device)
    del sides, each
    gc.collect()
    loads: dict[str, Run] = {n: partial(open_side, n, family, folder, dtype, device) for n in names(family)}
    return found | ({"load": in_turn(loads, seconds, device)} if "load" in wanted else {})


def peak(name: str, family: str, folder: Path, dtype: torch.dtype, device: str) -> float:
    """MiB that loading and a step add to the memory of this process, or of the device, at the most."""
    importlib.import_module(f"transformers.models.{family}.modeling_{family}")  # what a library imports is no model
    held = most(device)
    side = open_side(name, family, folder, dtype, device)
    step(side, torch.ones(SHAPES[-1], dtype=torch.long, device=device))
    return most(device) - held


def most(device: str) -> float:
    """The most MiB this process, or its device, ever held.

    Linux is asked in another way: its `ru_maxrss` begins with what the parent held when it started the process.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "linux":
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def peaks(family: str, folder: Path, dtype: str, device: str) -> dict[str, float]:
    """`peak` of each side, the median of three processes of its own, in turn: the allocator's luck differs."""
    found: dict[str, list[float]] = {name: [] for name in names(family)}
    for name in [*found] * 3:
        command = [sys.executable, __file__, "--peak", name, str(folder)]
        command += ["--family", family, "--dtype", dtype, "--device", device]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name].append(float(told.split()[-1]))
    return {name: statistics.median(peaks) for name, peaks in found.items()}


def profile(family: str, work: str, folder: Path, dtype: torch.dtype, device: str) -> None:
    """Where each side's time goes: the ten operations with the most time of their own."""
    for name in names(family)[:2]:
        run = workloads(open_side(name, family, folder, dtype, device), device)[work]
        run()
        with torch.profiler.profile() as profiler:
            run()
        order = "self_cuda_time_total" if device.startswith("cuda") else "self_cpu_time_total"
        print(f"{name}: {family}, {work}")
        print(profiler.key_averages().table(sort_by=order, row_limit=10, max_name_column_width=40))


def cell(found: dict[str, float], show: Callable[[float], str]) -> str:
    """How many times as well we do as the better setting of transformers, and our own number."""
    ratio = min(number for name, number in found.items() if name != OURS) / found[OURS]
    text = f"{ratio:.2f}x" if ratio >= NEVER_BELOW else f"**{ratio:.2f}x**"
    return f"{text} ({show(found[OURS])})"


def shown(work: str, found: dict[str, float]) -> str:
    """The cell of a workload: tokens a second for text, milliseconds or MiB for the others."""
    if work == "peak":
        return cell(found, lambda mib: f"{mib:,.0f} MiB")
    if work.startswith("decode"):
        return cell(found, lambda seconds: f"{int(work.split()[1]) * NEW / seconds:,.0f} tokens/s")
    return cell(found, lambda seconds: f"{1000 * seconds:,.1f} ms")


def main() -> None:
    """Measure, and print a Markdown table for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=CONFIGS, nargs="+", default=list(CONFIGS))
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--work", choices=WORKLOADS, nargs="+", default=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each workload and side")
    parser.add_argument("--profile", nargs=2, metavar=("FAMILY", "WORKLOAD"), help="where the time goes, instead")
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    first = DTYPES[options.dtype[0]]
    if options.peak:
        print(peak(options.peak[0], options.family[0], Path(options.peak[1]), first, options.device))
        return
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        if options.profile:
            family, work = options.profile
            profile(family, work, made(family, Path(place)), first, options.device)
            return
        for name in options.dtype:
            print(f"\n{name}, {options.device}, {torch.get_num_threads()} threads\n")
            print(
                "| family | parameters | "
                + " | ".join(options.work)
                + " |\n|---"
                + "|---" * (1 + len(options.work))
                + "|"
            )
            for family in options.family:
                folder = made(family, Path(place))
                found = compare(family, folder, DTYPES[name], options.device, options.seconds, options.work)
                if "peak" in options.work:
                    found["peak"] = peaks(family, folder, name, options.device)
                cells = [shown(work, found[work]) if work in found else "-" for work in options.work]
                print(f"| {family} | {parameters(folder)} | " + " | ".join(cells) + " |", flush=True)


def made(family: str, place: Path) -> Path:
    """The folder of a family, written once."""
    folder = place / family
    if not folder.exists():
        save_model(new_model(family, CONFIGS[family], head="masked" if family == "bert" else None), None, folder)
        (folder / "langwright.json").unlink()  # folders of others have no checksums that we would compare
    return folder


def parameters(folder: Path) -> str:
    """How many numbers a folder holds, by its size in float32."""
    return f"{(folder / 'model.safetensors').stat().st_size / 4e6:.0f}M"


if __name__ == "__main__":
    main()
