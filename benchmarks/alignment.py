"""What alignment gains: policies before and after, by the rewards they learn from and by others that they never saw.

    python benchmarks/alignment.py --data FOLDER [--work DIR] [ROW ...]     # all, or whose names begin so
    python benchmarks/alignment.py --list
    python benchmarks/alignment.py --table [--work DIR]      # what is finished, as Markdown

A row is a few commands, the last of which prints its scores; see `rows.py`.
"""

import ast
import hashlib
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, lines, main

from langwright.alignment.rules import check_of
from langwright.base.sandbox import run_python

SEEDS = (0, 1, 2)
QUIET = '--sample-every "0 steps" --save-every "200 steps"'
ALIGN = f'{QUIET} --evaluate-every "1000 steps" --dtype float32'


def rows() -> Iterator[Row]:
    """All rows."""
    yield from arithmetic()
    yield from sentiment()
    yield from code()
    yield from helpfulness()


def arithmetic() -> Iterator[Row]:
    """Sums of two numbers below 100: a model that learnt a part of them, before and after rewards for right answers."""
    yield Row(
        "base/sums",
        (
            'pretrain {work}/sums.jsonl {work}/sums --depth 2 --width 128 --tokenizer bytes --context 32 --split 5% '
            f'--batch-size 64 --steps "3000 steps" --dropout 0 --evaluate-every "1000 steps" {QUIET} --json',
        ),
    )  # fmt: skip
    learn = f'--reward answer --max-new-tokens 4 --batch-size 16 --group 8 --steps "150 steps" {ALIGN}'
    for method, more in (("grpo", "--kl 0.01"), ("rloo", "--kl 0.01"), ("expert-iteration", "")):
        for seed in SEEDS:
            yield aligned(
                f"arithmetic/{method}/{seed}", "sums", "sum-prompts.jsonl", f"--method {method} {learn} {more}",
                "sum-test.jsonl", ("answer",), "--max-new-tokens 4", seed,
            )  # fmt: skip


def sentiment() -> Iterator[Row]:
    """A model of film reviews that learns to be kind; the gold classifier learnt from other reviews."""
    yield Row(
        "base/reviews",
        (
            "pretrain {work}/reviews.jsonl {work}/reviews --depth 3 --width 192 --vocabulary 4096 --context 128 "
            f'--batch-size 16 --steps "600 steps" --split 2% --dropout 0.1 --optimizer muon '
            f'--evaluate-every "300 steps" --dtype bfloat16 {QUIET} --json',
        ),
    )
    for part in ("proxy", "gold"):
        yield Row(
            f"base/{part} classifier",
            (
                f"finetune new:cnn {{work}}/{part}.tsv {{work}}/{part} --task classify --depth 2 --width 128 "
                '--vocabulary 8192 --dropout 0.3 --context 96 --steps "4 epochs" --batch-size 32 '
                f'--evaluate-every "100 steps" {QUIET}',
                f"evaluate {{work}}/{part} --data {{work}}/reviews-test.tsv --json",
            ),
        )
    need = ("base/reviews", "base/proxy classifier", "base/gold classifier")
    learn = "--reward {work}/proxy:1 --gold {work}/gold:1 --max-new-tokens 32 --batch-size 8 --group 8"
    for method, more in (("ppo", "--kl-target 6 --kl-horizon 2000"), ("grpo", "--kl 0.02"), ("grpo free", "--kl 0")):
        for seed in SEEDS:
            yield aligned(
                f"sentiment/{method}/{seed}", "reviews", "review-prompts.jsonl",
                f'--method {method.split()[0]} {learn} {more} --steps "120 steps" {ALIGN}',
                "review-test.jsonl", ("{work}/proxy:1", "{work}/gold:1"), "--max-new-tokens 32", seed, need,
            )  # fmt: skip
    yield Row(
        "sentiment/best of 16",
        (
            "align {work}/reviews {work}/review-test.jsonl {work}/reviews-best --method best-of-n --group 16 "
            "--reward {work}/proxy:1 --gold {work}/gold:1 --max-new-tokens 32 --json",
        ),
        need,
    )


def code() -> Iterator[Row]:
    """Bodies of functions of Python's library: do they parse, and do they pass the doctests of their heads."""
    yield Row(
        "base/code",
        (
            'pretrain python-stdlib {work}/code --depth 4 --width 256 --vocabulary 4096 --context 256 '
            '--batch-size 16 --steps "1500 steps" --dropout 0 --optimizer muon --dtype bfloat16 '
            f'--evaluate-every "750 steps" {QUIET} --json',
        ),
    )  # fmt: skip
    learn = f'--reward parses --max-new-tokens 48 --batch-size 8 --group 8 --kl 0.02 --steps "100 steps" --skip {ALIGN}'
    for seed in SEEDS:
        yield aligned(
            f"code/grpo on parses/{seed}", "code", "heads.jsonl", f"--method grpo {learn}", "doctests.jsonl",
            ("parses", "tests"), "--max-new-tokens 48", seed,
        )  # fmt: skip


def helpfulness() -> Iterator[Row]:
    """Pairs judged by GPT-4, split by instruction: reward models, and policies beside the best of 16.

    The judge learnt from other instructions than all that it judges.
    """
    yield Row(
        "base/text",
        (
            "pretrain {data}/text/novels.txt.xz {work}/text --depth 4 --width 256 --vocabulary 8192 --context 256 "
            '--batch-size 16 --steps "1500 steps" --dropout 0.1 --optimizer muon --split 1% --dtype bfloat16 '
            f'--validation-windows 128 --evaluate-every "750 steps" {QUIET} --json',
        ),
    )
    for name, seed, pairs in (("reward model", 0, "train"), ("judge", 1, "judge"), ("reward model", 2, "train")):
        out = f"{{work}}/{name.split()[0]}-{seed}"
        yield Row(
            f"helpfulness/{name}/{seed}",
            (
                f"align {{work}}/text {{work}}/pairs-{pairs}.jsonl {out} --method reward --context 256 --skip "
                f"--validation {{work}}/pairs-test.jsonl --template chatml --seed {seed} --batch-size 8 "
                f'--dtype bfloat16 {QUIET} --evaluate-every "1000 steps" --json',
            ),
            ("base/text",),
        )
    yield Row(
        "base/assistant",
        (
            "finetune {work}/text {work}/chosen.jsonl {work}/assistant --task chat --template chatml --context 256 "
            f'--batch-size 8 --steps "1 epochs" --dtype bfloat16 {QUIET} --evaluate-every "1000 steps" --json',
        ),
        ("base/text",),
    )
    need = ("base/assistant", "helpfulness/reward model/0", "helpfulness/judge/1")
    for seed in SEEDS:
        yield aligned(
            f"helpfulness/dpo/{seed}", "assistant", "pairs-train.jsonl",
            f'--method dpo --context 256 --skip --batch-size 8 --steps "400 steps" --dtype bfloat16 {QUIET}',
            "ask-test.jsonl", ("{work}/judge-1",), "--max-new-tokens 64", seed, need,
        )  # fmt: skip
        yield aligned(
            f"helpfulness/ppo/{seed}", "assistant", "ask-train.jsonl",
            "--method ppo --reward {work}/reward-0 --gold {work}/judge-1 --kl-target 6 --kl-horizon 2000 --skip "
            f'--max-new-tokens 64 --batch-size 8 --group 4 --steps "80 steps" {ALIGN}',
            "ask-test.jsonl", ("{work}/judge-1",), "--max-new-tokens 64", seed, need,
        )  # fmt: skip
    yield Row(
        "helpfulness/best of 16",
        (
            "align {work}/assistant {work}/ask-test.jsonl {work}/assistant-best --method best-of-n --group 16 --skip "
            "--reward {work}/reward-0 --gold {work}/judge-1 --max-new-tokens 64 --json",
        ),
        need,
    )


def aligned(
    name: str,
    base: str,
    prompts: str,
    options: str,
    test: str,
    rewards: tuple[str, ...],
    answers: str,
    seed: int,
    needs: tuple[str, ...] = (),
) -> Row:
    """A policy that began with `base`, compared with it on other prompts, by `rewards`."""
    out = '"{work}/' + name.replace("/", "-") + '"'
    asked = " ".join(f"--reward {reward}" for reward in rewards)
    return Row(
        name,
        (
            f"align {{work}}/{base} {{work}}/{prompts} {out} {options} --seed {seed}",
            f"compare {out} {{work}}/{base} {{work}}/{test} {asked} {answers} --seed {seed} --json",
        ),
        needs or (f"base/{base}",),
    )


def prepare(data: Path, work: Path) -> None:
    """Files that the commands read; made once."""
    if all((work / name).exists() for name in ("pairs-judge.jsonl", "doctests.jsonl")):
        return
    work.mkdir(parents=True, exist_ok=True)
    _sums(work)
    _reviews(lines(data / "classify" / "imdb_sample.jsonl.gz"), work)
    _pairs(lines(data / "preference" / "alpacaeval_gpt4_pairs.jsonl.gz"), work)
    _functions(work)


def _sums(work: Path) -> None:
    """All sums of two numbers below 100: 6,000 to learn from, 3,000 to be rewarded for, and 500 to measure."""
    every = [(a, b) for a in range(100) for b in range(100)]
    random.Random(0).shuffle(every)
    write(work / "sums.jsonl", [{"text": f"{a}+{b}={a + b}"} for a, b in every[:6000]])
    asked = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in every[6000:]]
    write(work / "sum-prompts.jsonl", asked[:3000])
    write(work / "sum-test.jsonl", asked[3000:3500])


def _reviews(reviews: list[dict[str, Any]], work: Path) -> None:
    """Reviews to write like, two halves of them with labels, and beginnings to go on with."""
    train, test = ([row for row in reviews if row["split"] == part] for part in ("train", "test"))
    random.Random(0).shuffle(train)
    write(work / "reviews.jsonl", [{"text": row["text"]} for row in train])
    for name, part in (("proxy", train[::2]), ("gold", train[1::2]), ("reviews-test", test)):
        # What is judged later are beginnings of reviews too.
        told = (f"{' '.join(row['text'].split()[:80])}\t{int(row['label'] == 'pos')}\n" for row in part)
        (work / f"{name}.tsv").write_text("".join(told))
    for name, part in (("review-prompts", train), ("review-test", test)):
        begun = {" ".join(row["text"].split()[:6]) for row in part}
        write(work / f"{name}.jsonl", [{"prompt": text} for text in sorted(begun)])


def _pairs(pairs: list[dict[str, Any]], work: Path) -> None:
    """Pairs by instruction: five tenths to learn from, four for the judge, one to measure; and instructions alone."""
    sides: dict[str, list[dict[str, Any]]] = {"train": [], "judge": [], "test": []}
    for row in pairs:
        tenth = int(hashlib.sha1(row["instruction"].encode()).hexdigest(), 16) % 10
        part = "test" if tenth == 0 else "judge" if tenth < 5 else "train"
        sides[part].append(
            {name: row[key] for name, key in (("prompt", "instruction"), ("chosen",) * 2, ("rejected",) * 2)}
        )
    for part, found in sides.items():
        write(work / f"pairs-{part}.jsonl", found)
        write(work / f"ask-{part}.jsonl", [{"prompt": text} for text in dict.fromkeys(row["prompt"] for row in found)])
    write(work / "chosen.jsonl", [{"prompt": row["prompt"], "completion": row["chosen"]} for row in sides["train"]])


def _functions(work: Path) -> None:
    """Heads of functions of Python's library, and those whose doctests their own bodies pass in the sandbox."""
    root, heads, tested = Path(sysconfig.get_path("stdlib")), [], []
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            continue
        try:
            text = path.read_text()
            tree = ast.parse(text)
        except (SyntaxError, UnicodeDecodeError):
            continue
        source = text.splitlines(keepends=True)
        for node in tree.body:
            docs = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if docs is None or len(node.body) < 2:
                continue
            at = node.body[0].end_lineno
            head, body = "".join(source[node.lineno - 1 : at]), "".join(source[at : node.end_lineno])
            if ">>> " not in docs:
                heads.append({"prompt": head})
                continue
            module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            head = f"from {module} import *\n\n\n{head}"
            if run_python(head + body, check_of(docs)).passed:
                tested.append({"prompt": head, "tests": docs})
    random.Random(0).shuffle(heads)
    write(work / "heads.jsonl", heads)
    write(work / "doctests.jsonl", tested)


def write(path: Path, found: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))


def tables(work: Path, data: Path | None) -> Iterator[str]:
    """Markdown of the finished rows: means over seeds, with their standard deviation where there are several."""
    yield "\n| | reward | before | after | gain / deviation | preferred | KL, nats |\n|---|---|---|---|---|---|---|"
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows():
        told = work / "results" / f"{row.name.replace('/', '__')}.json"
        if told.exists():
            name = row.name.rpartition("/")[0] if row.name[-1].isdigit() and "best" not in row.name else row.name
            found.setdefault(name, []).append(json.loads(told.read_text()))
    for name, runs in found.items():
        for spec in runs[0].get("rewards", {}):
            each = [run["rewards"][spec] for run in runs]
            before, after = ([one["means"][side] for one in each] for side in (1, 0))
            gains = [one["difference"] / (one["deviations"][1] or 1) for one in each]
            cells = [shown(values) for values in (before, after, gains, [one["win_rate"] for one in each])]
            kl = [run["kl"] for run in runs if run["kl"] is not None]
            yield f"| {name} | {Path(spec).name} | {' | '.join(cells)} | {shown(kl) if kl else ''} |"
        if "curve" in runs[0]:
            first, *_, last = runs[0]["curve"]
            for reward, deviation in (("reward", "deviation"), ("gold", "gold_deviation")):
                if reward in last:
                    gain = (last[reward] - first[reward]) / runs[0][deviation]
                    cells = f"{first[reward]:.3f} | {last[reward]:.3f} | {gain:.2f} | | ≤ {last['kl']:.2f}"
                    yield f"| {name} | {reward} | {cells} |"
        if "accuracy" in runs[0]:
            yield f"| {name} | accuracy | | {shown([run['accuracy'] for run in runs])} | | | |"


def shown(values: list[float]) -> str:
    """A mean, and the standard deviation of several."""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main(__doc__, {row.name: row for row in rows()}, Path("alignment"), prepare=prepare, tables=tables)
