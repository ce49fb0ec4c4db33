"""A model compressed in every way: perplexity, size, speed and memory against bits and sparsity.

    python benchmarks/compression.py MODEL --text FILE --calibrate FILE --out FOLDER [--windows 128] [--only int4,wanda]

Each row is a folder that `langwright compress` or `prune` writes, opened in a process of its own: perplexity of a token
of the text, tokens a second when one text is written (median of three), and the most memory that the process took. The
table is printed in Markdown; FOLDER/report.html has the curves, FOLDER/rows.jsonl the numbers.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from langwright import Engine, Request, Sampling, load_model, load_tokenizer
from langwright.cli import main as langwright
from langwright.commands.evaluate import measure, tokens_of
from langwright.viewing.charts import Axes, Series, line_chart
from langwright.viewing.page import Html, Section, page, table

QUANTISED = [(bits, method) for bits in ("int4", "int3") for method in ("rtn", "gptq", "awq")]
PRUNED = ("magnitude", "wanda", "sparsegpt")
ROWS: list[tuple[str, list[str]]] = [
    ("bfloat16", ["compress", "--to", "bfloat16"]),
    ("int8 rtn", ["compress", "--to", "int8"]),
    ("w8a8 rtn", ["compress", "--to", "w8a8"]),
    ("w8a8 smoothquant", ["compress", "--to", "w8a8", "--method", "smoothquant"]),
    *((f"{bits} {method}", ["compress", "--to", bits, "--method", method]) for bits, method in QUANTISED),
    ("nf4 rtn", ["compress", "--to", "nf4"]),
    ("nf4 gptq", ["compress", "--to", "nf4", "--method", "gptq"]),
    *(
        (f"{share:.0%} {method}", ["prune", "--sparsity", str(share), "--method", method])
        for share in (0.5, 0.7)
        for method in PRUNED
    ),
    *((f"2:4 {method}", ["prune", "--pattern", "2:4", "--method", method]) for method in PRUNED),
    ("1 layer out", ["prune", "--layers", "1"]),
    ("1 head a layer out", ["prune", "--heads", "1"]),
]
"""What stands in the table, and the command that makes it."""
HEADINGS = ("model", "bits a weight", "MiB", "perplexity", "change", "tokens a second", "peak MiB", "seconds to make")


def measured(folder: Path, text: str) -> dict[str, float]:
    """What a folder is worth, in this process."""
    torch.manual_seed(0)
    model, tokenizer = load_model(folder, dtype=torch.bfloat16), load_tokenizer(folder)
    speeds = []
    for _ in range(3):
        engine = Engine(model, tokenizer)
        handle = engine.add(Request("It was", Sampling(temperature=0), max_new_tokens=100))
        began = time.perf_counter()
        engine.finish([handle])
        speeds.append(100 / (time.perf_counter() - began))
    status = Path("/proc/self/status").read_text()  # Linux; what getrusage says begins with the parent's memory
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    with tokens_of(tokenizer, text, None, "text") as tokens:
        perplexity = measure(load_model(folder), tokens).perplexity  # in the dtype of the folder
    return {"perplexity": perplexity, "speed": statistics.median(speeds), "peak": peak}


def made(model: str, name: str, words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """One row: the folder made, then measured."""
    folder, began = options.out / name.replace(" ", "-").replace(":", "of").replace("%", ""), time.perf_counter()
    calibrated = (words[0] == "prune" and "magnitude" not in words) or {"gptq", "awq", "smoothquant"} & {*words}
    more = ["--calibrate", options.calibrate, "--windows", str(options.windows)] if calibrated else []
    if not folder.exists():
        with contextlib.redirect_stdout(sys.stderr):
            if langwright([words[0], model, str(folder), *words[1:], *more, "--json"]):
                raise SystemExit(f"{name} failed")
    seconds = time.perf_counter() - began
    record = json.loads((folder / "langwright.json").read_text())
    told = record.get("compressed", record.get("pruned", {}))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20
    bits = told.get("bits_per_weight", 16 if name == "bfloat16" else 32)
    ask = [sys.executable, __file__, str(folder), "--text", options.text, "--measure"]
    found = json.loads(subprocess.run(ask, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    return {"name": name, "bits": bits, "size": size, "seconds": seconds, "zeros": told.get("zeros", 0.0), **found}


def curves(rows: list[dict[str, Any]], dense: float) -> list[Section]:
    """Perplexity over bits and over sparsity, and the other quantities over bits, a line a method."""

    def lines(of: list[dict[str, Any]], x: str, y: str) -> list[Series]:
        methods = list(dict.fromkeys(row["name"].rpartition(" ")[2] for row in of))
        found = []
        for number, method in enumerate(methods):
            own = sorted((row for row in of if row["name"].endswith(method)), key=lambda row: row[x])
            found.append(Series(method, [r[x] for r in own], [r[y] for r in own], "points", number % 4))
        return found

    quantised = [row for row in rows if row["name"].split()[0] in ("int8", "int4", "int3", "nf4")]
    pruned = [row for row in rows if row["zeros"] > 0.1]
    pairs = [
        ("perplexity", "Perplexity of a token"),
        ("size", "MiB"),
        ("speed", "Tokens a second"),
        ("peak", "Peak MiB"),
    ]
    charts = [line_chart(lines(quantised, "bits", y), Axes("bits a weight", label, height=280)) for y, label in pairs]
    sparse = line_chart(
        lines(pruned, "zeros", "perplexity"), Axes("share of weights left out", pairs[0][1], height=280)
    )
    lead = f"The model as it was has a perplexity of {dense:.3f}."
    return [Section("bits", "Fewer bits", Html("").join(charts), lead), Section("zeros", "Fewer weights", sparse, lead)]


def main() -> None:
    """Make and measure all rows, or measure one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--calibrate", default="")
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--measure", action="store_true", help="print what the folder is worth, and do no more")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(Path(options.model), options.text)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, words in ROWS:
        if not options.only or any(word in name for word in options.only.split(",")):
            rows.append(made(options.model, name, words, options))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    dense = next((row["perplexity"] for row in rows if row["name"] == "bfloat16"), rows[0]["perplexity"])
    cells = [
        [
            row["name"], f"{row['bits']:.2f}", f"{row['size']:.2f}", f"{row['perplexity']:.3f}",
            f"{row['perplexity'] / dense - 1:+.2%}", f"{row['speed']:.0f}",
            f"{row['peak']:.0f}", f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    print("\n".join(f"| {' | '.join(row)} |" for row in [HEADINGS, ["---"] * len(HEADINGS), *cells]))
    (options.out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = Section("values", "All values", table(HEADINGS, cells, HEADINGS[1:]))
    (options.out / "report.html").write_text(page("Compression", [*curves(rows, dense), values]), encoding="utf-8")


if __name__ == "__main__":
    main()
