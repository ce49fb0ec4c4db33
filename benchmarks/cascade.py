"""A ladder of models trained here, and what cascades and a router over it save at equal quality.

    python benchmarks/cascade.py CORPUS --work DIR [--rungs 1M,5M,20M] [--rows 1200] [--train]

CORPUS is a text such as novels. Each rung is trained on it for as many tokens as the others; steps are fixed, a run
that was stopped goes on, and one that is finished is not run again (`--train` trains, and does no more). A model that
lies in DIR under the name of a rung is taken as it is. The task is the next word of the last hundredth, which no model
has seen: 96 tokens are given, and the answer is right if it is the same word. Costs are prices: a token costs as many
millionths as its model has parameters. Scorers that need no classifier, a learned one, and a router; then the same in
seconds.
"""

import argparse
import json
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from langwright import load_tokenizer
from langwright.corpora.opening import open_corpus
from langwright.corpora.splits import split_documents

RUNGS = {"1M": "--depth 8 --width 64", "5M": "--depth 4 --width 256", "20M": "--depth 5 --width 512"}
"""On one core of an AMD EPYC 4, 13 and 40 minutes."""
TRAINED = (
    "--family llama --vocabulary 8192 --dropout 0.1 --optimizer muon --context 128 --batch-size 32 --split 0.99 "
    '--steps "600 steps" --evaluate-every "200 steps" --validation-windows 256 --sample-every "0 steps" '
    '--save-every "50 steps" --dtype bfloat16'
)
GIVEN = 96
WAYS = {
    "perplexity": "--cost price --scorer perplexity",
    "margin": "--cost price --scorer margin",
    "learned": "--cost price --scorer learned",
    "router": "--cost price --kind router",
    "perplexity, in seconds": "--cost seconds --scorer perplexity",
}


def run(*words: str) -> str:
    """What a command of langwright prints."""
    done = subprocess.run([sys.executable, "-m", "langwright", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def rows_of(corpus: str, model: Path, count: int) -> list[dict[str, str]]:
    """Prompts and next words, out of the documents that training held out. Words are single tokens."""
    tokenizer, drawn = load_tokenizer(model), random.Random(0)
    held_out = split_documents(open_corpus(corpus), "0.99")[1]
    streams = [tokenizer.encode(document.text) for document in held_out]
    found: dict[str, str] = {}
    while len(found) < count:
        ids = drawn.choice(streams)
        at = drawn.randrange(GIVEN, len(ids) - 1)
        word, after = (tokenizer.decode(ids[i : i + 1]) for i in (at, at + 1))
        if word[:1] == " " and word[1:].isalpha() and not after[:1].isalpha():
            found[tokenizer.decode(ids[at - GIVEN : at])] = word.strip()
    return [{"prompt": prompt, "completion": word} for prompt, word in found.items()]


def shown(way: str, fitted: dict[str, Any], names: list[str]) -> None:
    """The curve of a way on rows that nothing was fitted on, and what it costs to be as good as the best model."""
    report = fitted["report"]
    (best, dear) = max(map(tuple, report["singles"]))
    print(f"\n{way}: {report['rows']}\n| asked | right | 95 % interval | cost | of the best alone |")
    print("|---|---|---|---|---|")
    for name, (accuracy, cost) in zip(names, report["singles"], strict=True):
        print(f"| {name} alone | {accuracy:.1%} | | {cost:.3g} | {cost / dear:.2f} |")
    for point in report["points"]:
        chain = " > ".join(names[model] for model in point["policy"]["chain"]) if way != "router" else "the router's"
        low, high = point["accuracy_interval"]
        told = f"{point['accuracy']:.1%} | {low:.1%} to {high:.1%} | {point['cost']:.3g} | {point['cost'] / dear:.2f}"
        print(f"| {chain} | {told} |")
    equal = [point["cost"] / dear for point in report["points"] if point["accuracy"] >= best]
    print(f"as good as the best alone for {min(equal):.2f} of its cost" if equal else "never as good as the best alone")
    print(f"an oracle: {report['oracle'][0]:.1%} for {report['oracle'][1] / dear:.2f} of it", flush=True)


def main() -> None:
    """Train what is not there, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rungs", default=",".join(RUNGS))
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--train", action="store_true")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    names = chosen.rungs.split(",")
    folders = [chosen.work / name for name in names]
    for name, folder in zip(names, folders, strict=True):
        if not (folder / "langwright.json").exists():
            run("pretrain", chosen.corpus, str(folder), *shlex.split(f"{RUNGS[name]} {TRAINED}"))
    if chosen.train:
        return
    table = chosen.work / f"words-{chosen.rows}.jsonl"
    if not table.exists():
        rows = rows_of(chosen.corpus, folders[0], chosen.rows)
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prices = [json.loads((folder / "langwright.json").read_text())["parameters"] / 1e6 for folder in folders]
    priced = [word for price in prices for word in ("--price", f"{price}:{price}")]
    models = [word for folder in folders for word in ("--model", str(folder))]
    for way, flags in WAYS.items():
        out = chosen.work / f"{'-'.join(names)} {way.replace(',', '')} {chosen.rows}"
        if not (out / "cascade.json").exists():
            run("cascade", "fit", str(table), str(out), *models, *priced, *flags.split(), "--max-new-tokens", "1")
        shown(way, json.loads((out / "cascade.json").read_text()), names)


if __name__ == "__main__":
    main()
