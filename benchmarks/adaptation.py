"""What the ways to adapt a model cost and give, on one small base model that this script pretrains.

    python benchmarks/adaptation.py methods                # every method on one task
    python benchmarks/adaptation.py ranks                  # LoRA and rsLoRA of rank 1 to 64
    python benchmarks/adaptation.py sizes                  # 50, 200, 1,000 and all examples
    python benchmarks/adaptation.py arithmetic             # tuned to calculate, against few-shot prompts

The base is a GPT-2 (it has biases, which BitFit wants) that has read Python's own library; it is kept in `--folder`.
The task is to write a function's body, given its signature and docstring: instructions mined from the same library,
measured on modules that were held out. A third of the held-out ones chooses each method's learning rate, on one seed;
the others are the quality. Tuning is bfloat16 with float32 masters, AdamW without weight decay, 8 rows a step, one
thread. Memory is predicted here (`_memory.py`); `quantised.py` measures it as well.
"""

import argparse
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from _memory import training_memory

from langwright import load_model, load_tokenizer
from langwright.adaptation.methods import METHODS
from langwright.base.allocator import keep_freed_memory
from langwright.commands import pretrain
from langwright.commands._demo import mine
from langwright.corpora.document import Document
from langwright.corpora.opening import open_corpus
from langwright.corpora.splits import split_documents
from langwright.data.conversations import ChatExample, answer_bytes, chat_rows, fit_examples
from langwright.data.order import Layout
from langwright.data.shards import Tokens
from langwright.data.supply import Batches, evaluation_batches
from langwright.data.texts import tokenise
from langwright.data.windows import Windows
from langwright.evaluation.likelihood import likelihood
from langwright.inference.generate import complete
from langwright.inference.prompts import prompt_ids
from langwright.inference.sampling import Sampling
from langwright.models.folder import RECORD
from langwright.models.model import Model
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.text.chat_template import set_up_chat
from langwright.text.tokenizer import Tokenizer
from langwright.training.learner import Learner
from langwright.training.recipe import PretrainRecipe, TrainingRecipe
from langwright.training.unfreezing import Unfreezing

CORPUS, TOKENS, ROWS = "python-stdlib", 128, 8
LONGEST, LEARNT, HELD, OLD, BELOW, RATES = 300, 2000, 150, 9, 30, 6
"""Characters of an example; how many are learnt from and held out; modules of old text; a bound of numbers; the most
learning rates that are tried."""
DTYPE = torch.bfloat16
Pair = tuple[int, str, int]


@dataclass(frozen=True)
class Way:
    """A method by name, with its settings; full tuning has no name.

    rate: the middle of the first three learning rates that are tried; the others are a third of it and three times it.
    unfreeze_every: steps after which the next layer from the top joins; all train from the beginning unless given.
    """

    rate: float
    method: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    bits: str | None = None
    unfreeze_every: int | None = None


WAYS = {
    "full": Way(3e-4),
    "gradual unfreezing": Way(3e-4, unfreeze_every=30),
    "LoRA": Way(3e-3, "lora"),
    "rsLoRA": Way(3e-3, "lora", {"rslora": True}),
    "LoRA+": Way(1e-3, "lora", {"plus": 16.0}),
    "DoRA": Way(3e-3, "lora", {"dora": True}),
    "QLoRA (nf4)": Way(3e-3, "lora", bits="nf4"),
    "LoRA, all linear": Way(3e-3, "lora", {"target": "all-linear"}),
    "LoRA, all linear, rank 2": Way(3e-3, "lora", {"target": "all-linear", "rank": 2}),
    "LoRA+, all linear, rank 2": Way(1e-3, "lora", {"target": "all-linear", "rank": 2, "plus": 16.0}),
    "IA3": Way(3e-3, "ia3"),
    "prompt": Way(3e-2, "prompt"),
    "P-tuning": Way(3e-3, "p-tuning"),
    "prefix": Way(3e-2, "prefix"),
    "Houlsby": Way(3e-3, "bottleneck", {"kind": "houlsby"}),
    "Pfeiffer": Way(3e-3, "bottleneck", {"kind": "pfeiffer"}),
    "parallel": Way(3e-3, "bottleneck", {"kind": "parallel"}),
    "BitFit": Way(1e-2, "bitfit"),
    "LayerNorm": Way(1e-2, "layernorm"),
}


@dataclass(frozen=True)
class Task:
    """The base model's folder, examples, and what is measured: answers, and text of the kind that the base knows."""

    base: Path
    tokenizer: Tokenizer
    old: Tokens
    training: list[ChatExample]
    choosing: list[ChatExample]
    measured: list[ChatExample]

    def quality(self, model: Model, examples: Sequence[ChatExample]) -> float:
        """Bits per byte of the answers."""
        batches = evaluation_batches(chat_rows(examples, TOKENS), ROWS)
        return likelihood(model.eval(), batches, answer_bytes(examples, self.tokenizer)).bits_per_byte

    def remembered(self, model: Model) -> float:
        """Bits per byte of the old text."""
        batches = evaluation_batches(Windows(self.old, TOKENS, once=True), ROWS)
        return likelihood(model.eval(), batches, int(self.old.bytes.sum())).bits_per_byte


@dataclass(frozen=True)
class Outcome:
    """Of one run: bits per byte of the choosing and of the measured answers, and of the old text."""

    trained: int
    bytes: int
    seconds: float
    choosing: float
    quality: float
    old: float


def pretrained(folder: Path, steps: str) -> Path:
    """The base model, made on the first call."""
    base = folder / "base"
    recipe = PretrainRecipe(
        family="gpt2", depth=3, context=256, steps=steps, optimizer="muon", learning_rate=4e-3,
        evaluate_every="100000 steps", sample_every="0 steps",
    )  # fmt: skip
    if not (base / RECORD).exists():
        pretrain.run(CORPUS, base, recipe)
    return base


def make_task(base: Path) -> Task:
    """Mined instructions, a seeded choice."""
    setup = set_up_chat(load_tokenizer(base), "zephyr", may_grow=False, where=str(base))
    training, held_out = split_documents(open_corpus(CORPUS))
    short = [[c for c in mine(side) if len(c.prompt + c.answer) <= LONGEST] for side in (training, held_out)]
    rng = random.Random(0)
    learnt, kept = (rng.sample(side, min(size, len(side))) for side, size in zip(short, (LEARNT, HELD), strict=True))
    fit = partial(fit_examples, template=setup, context=TOKENS)
    sides = [fit(side)[0] for side in (learnt, kept[: HELD // 3], kept[HELD // 3 :])]
    beginnings = (Document(document.text[:5000], document.source) for document in islice(held_out, OLD))
    with tempfile.TemporaryDirectory() as scratch:
        old = tokenise(beginnings, setup.tokenizer, Path(scratch) / "old.tokens")
    return Task(base, setup.tokenizer, old, *sides)


def prepared(base: Path, chosen: Way, seed: int) -> Model:
    """The base with what is to train asking for gradients."""
    model = load_model(base, dtype=torch.float32, bits=chosen.bits)
    if chosen.method is not None:
        METHODS[chosen.method](**chosen.settings).attach(model, seed=seed)
    return model


def tune(
    model: Model, batches: Callable[[int], TokenBatch], steps: int, rate: float, unfreezing: Unfreezing | None = None
) -> float:
    """Train what asks for gradients; the rate rises for a tenth of the steps and falls to 0. Returns seconds."""
    adapters = getattr(model, "adapters", None)
    factor = next(iter(adapters.methods.values())).rate if adapters else lambda name: 1.0
    recipe = TrainingRecipe(learning_rate=rate, weight_decay=0.0)
    learner = Learner({"model": model}, TokenPrediction(), DTYPE, recipe, factor)
    began = time.perf_counter()
    for step in range(steps):
        if unfreezing is not None:
            unfreezing.apply(model, step)
        learner.backward(batches(step))
        learner.clip()
        learner.step(min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps), 1.0))
    return time.perf_counter() - began


def run(task: Task, chosen: Way, rate: float, steps: int, seed: int, examples: int | None = None) -> Outcome:
    """Tune the base, measure it."""
    model = prepared(task.base, chosen, seed)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = training_memory(model, ROWS, TOKENS, DTYPE).total
    unfreezing = None if chosen.unfreeze_every is None else Unfreezing(chosen.unfreeze_every)
    seconds = tune(
        model, Batches(chat_rows(task.training[:examples], TOKENS), Layout(ROWS, seed)).batch, steps, rate, unfreezing
    )
    choosing, quality = task.quality(model, task.choosing), task.quality(model, task.measured)
    return Outcome(trained, memory, seconds, choosing, quality, task.remembered(model))


def spread(values: Sequence[float]) -> str:
    """The mean, and the lowest and highest where there are several."""
    told = f"{statistics.mean(values):.3f}"
    return told if len(values) == 1 else f"{told} ({min(values):.3f} to {max(values):.3f})"


def best_rate(task: Task, chosen: Way, steps: int) -> tuple[float, Outcome]:
    """The learning rate whose choosing answers are best: of three, and of further ones while the best is outermost."""
    tried: dict[float, Outcome] = {}
    ahead = [chosen.rate / 3, chosen.rate, chosen.rate * 3]
    while True:
        tried |= {rate: run(task, chosen, rate, steps, seed=0) for rate in ahead}
        best = min(tried, key=lambda rate: (math.isnan(tried[rate].choosing), tried[rate].choosing))
        if min(tried) < best < max(tried) or len(tried) == RATES:
            return best, tried[best]
        ahead = [best * 3 if best == max(tried) else best / 3]


def methods(task: Task, steps: int, seeds: int, names: Sequence[str]) -> None:
    """The comparison table."""
    base = prepared(task.base, WAYS["full"], seed=0)
    whole = sum(p.numel() for p in base.parameters())
    print(f"{whole:,} parameters; answers {task.quality(base, task.measured):.3f}, old {task.remembered(base):.3f}")
    print("| method | trained | share | MiB | seconds | learning rate | answers | old text |\n|" + "---|" * 8)
    for name in names:
        chosen = WAYS[name]
        rate, first = best_rate(task, chosen, steps)
        all_ = [first, *(run(task, chosen, rate, steps, seed) for seed in range(1, seeds))]
        seconds = statistics.median(outcome.seconds for outcome in all_)
        counts = f"{first.trained:,} | {first.trained / whole:.2%} | {first.bytes / 2**20:.1f} | {seconds:.1f}"
        figures = f"{spread([o.quality for o in all_])} | {spread([o.old for o in all_])}"
        print(f"| {name} | {counts} | {rate:.2g} | {figures} |", flush=True)


def ranks(task: Task, steps: int, seeds: int) -> None:
    """LoRA and rsLoRA, alpha 16 and one learning rate at all ranks."""
    print("| rank | trained | LoRA | rsLoRA |\n|---|---|---|---|")
    for rank in (1, 2, 4, 8, 16, 32, 64):
        cells, trained = [], 0
        for rslora in (False, True):
            chosen = Way(3e-3, "lora", {"rank": rank, "alpha": 16.0, "rslora": rslora})
            found = [run(task, chosen, chosen.rate, steps, seed) for seed in range(seeds)]
            cells.append(spread([outcome.quality for outcome in found]))
            trained = found[0].trained
        print(f"| {rank} | {trained:,} | {' | '.join(cells)} |", flush=True)


def sizes(task: Task, steps: int, seeds: int) -> None:
    """Full tuning and LoRA by how many examples there are; the steps are the same."""
    print("| examples | epochs | full | LoRA |\n|---|---|---|---|")
    for count in (50, 200, 1000, len(task.training)):
        cells = [
            spread([run(task, WAYS[name], WAYS[name].rate, steps, seed, count).quality for seed in range(seeds)])
            for name in ("full", "LoRA")
        ]
        print(f"| {count:,} | {steps * ROWS / count:.1f} | {' | '.join(cells)} |", flush=True)


def arithmetic(base: Path, steps: int, seeds: int) -> None:
    """Exact answers to held-out sums and differences: of the base with examples in the prompt, and tuned."""
    tokenizer, rng = load_tokenizer(base), random.Random(0)
    pairs = [(a, sign, b) for a in range(BELOW) for b in range(BELOW) for sign in "+-"]
    rng.shuffle(pairs)
    asked, learnt = pairs[:200], pairs[200:]
    print(f"numbers below {BELOW}: {len(learnt):,} learnt, {len(asked)} others asked")
    print("| model | examples in the prompt | exact |\n|---|---|---|")
    model = prepared(base, WAYS["full"], seed=0)
    for shots in (0, 8):
        print(f"| base | {shots} | {exact(model, tokenizer, asked, learnt[:shots]):.1%} |", flush=True)
    for name, rate in (("full", 2e-3), ("LoRA, all linear", 1e-2)):
        right, seconds = [], []
        for seed in range(seeds):
            tuned = prepared(base, WAYS[name], seed)
            seconds.append(tune(tuned, partial(lines, tokenizer, learnt, seed), steps, rate))
            right.append(exact(tuned, tokenizer, asked, ()))
        told = f"{statistics.mean(right):.1%}" + f" ({min(right):.1%} to {max(right):.1%})" * (seeds > 1)
        print(f"| {name}, {statistics.median(seconds):.0f} s | 0 | {told} |", flush=True)


def lines(tokenizer: Tokenizer, learnt: Sequence[Pair], seed: int, step: int) -> TokenBatch:
    """64 examples, of which the answers count."""
    examples = []
    for pair in random.Random(f"{seed} {step}").sample(learnt, 64):
        question, answer = line(*pair).split(" =")
        before = prompt_ids(tokenizer, question + " =")
        after = tokenizer.encode(answer + "\n")
        trained = np.arange(len(before) + len(after)) >= len(before)
        examples.append(ChatExample(np.array(before + after, np.int32), trained, question))
    numbers = np.arange(len(examples))
    return chat_rows(examples, 16).batch(numbers, numbers, fixed=True)


def line(a: int, sign: str, b: int) -> str:
    """One example; digits stand apart, so that each is a token of its own."""
    told = str(a + b if sign == "+" else a - b)
    return f"{' '.join(str(a))} {sign} {' '.join(str(b))} = {' '.join(told)}"


def exact(model: Model, tokenizer: Tokenizer, asked: Sequence[Pair], shots: Sequence[Pair]) -> float:
    """The share of the asked whose greedy answer is right to the letter."""
    before = "".join(line(*shot) + "\n" for shot in shots)
    questions, answers = zip(*(line(*pair).split(" =") for pair in asked), strict=True)
    prompts = [f"{before}{question} =" for question in questions]
    told = complete(model.eval(), tokenizer, prompts, Sampling(0), 10, stop=("\n",))
    return statistics.mean(t.text == answer for t, answer in zip(told, answers, strict=True))


def main() -> None:
    """Make the base and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="methods", choices=("methods", "ranks", "sizes", "arithmetic"))
    parser.add_argument("--folder", type=Path, default=Path("build/adaptation"), help="where the base is kept")
    parser.add_argument("--pretraining", default="400 steps")
    parser.add_argument("--steps", type=int, default=150, help="of tuning; arithmetic wants a thousand")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, nargs="+", default=list(WAYS), help="which methods to compare")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with redirect_stderr(StringIO()):
        base = pretrained(given.folder, given.pretraining)
        task = make_task(base)
    if given.table == "arithmetic":
        arithmetic(base, given.steps, given.seeds)
    elif given.table == "methods":
        methods(task, given.steps, given.seeds, given.way)
    else:
        {"ranks": ranks, "sizes": sizes}[given.table](task, given.steps, given.seeds)


if __name__ == "__main__":
    main()
