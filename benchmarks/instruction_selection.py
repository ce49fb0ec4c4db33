"""A small good subset of instruction data against everything: what choosing is worth.

    python benchmarks/instruction_selection.py [--steps 60] [--seeds 3] [--share 0.25]

A base model is pretrained on Python's own library. Instructions are mined from the same modules: a signature and its
docstring are asked, the body is the answer. Half of the answers are then spoilt: another function's body, the empty
`pass`, or the body's first line again and again. The base is tuned for the same number of steps on everything, on the
sound half alone (which nobody has), on a random share, and on the share that `langwright prepare --keep` chooses by
each of its scores. The table gives bits per byte of the answers to held-out, sound instructions.
"""

import argparse
import json
import random
import statistics
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from langwright.commands import finetune, pretrain
from langwright.commands._demo import mine
from langwright.corpora.cleaning import heuristic_score
from langwright.corpora.conversations import Chat
from langwright.corpora.opening import open_corpus
from langwright.corpora.splits import split_documents
from langwright.evaluation.relevance import Scorer
from langwright.training.recipe import FinetuneRecipe, PretrainRecipe

CONTEXT, LONGEST, HELD_OUT = 256, 1000, 150
SILENT = {"evaluate_every": "100000 steps", "sample_every": "0 steps", "save_every": "100000 steps"}


def spoilt(chats: list[Chat], rng: random.Random) -> tuple[list[Chat], list[bool]]:
    """The conversations with about half of the answers spoilt, and which are sound."""
    made, sound = [], []
    for chat in chats:
        asked, said = chat.messages
        first = said["content"].split("\n")[0]
        bad = rng.choice([rng.choice(chats).messages[1]["content"], "    pass", "\n".join([first] * 6)])
        sound.append(rng.random() < 0.5)
        made.append(chat if sound[-1] else Chat((asked, {**said, "content": bad}), chat.source))
    return made, sound


def tuned(base: Path, chosen: list[Chat], held: list[Chat], folder: Path, steps: int, seed: int) -> float:
    """Bits per byte of held-out answers after tuning on the chosen conversations."""
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(chat.record()) + "\n" for chat in [*chosen, *held]))
    (folder / "old.txt").write_text("import os\n" * 20)
    recipe = FinetuneRecipe(
        task="chat", template="zephyr", steps=f"{steps} steps", seed=seed, old_text=str(folder / "old.txt"),
        split=repr((len(chosen) + 0.5) / (len(chosen) + len(held))), learning_rate=1e-3, **SILENT,
    )  # fmt: skip
    result = finetune.run(base, str(data), folder / "out", recipe)
    assert result.held_out is not None
    return result.held_out["bits_per_byte"]


def main() -> None:
    """Pretrain, spoil, choose, tune; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretraining", default="400 steps")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.25)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, redirect_stderr(StringIO()):
        folder = Path(name)
        recipe = PretrainRecipe(
            steps=given.pretraining, depth=3, context=CONTEXT, optimizer="muon", learning_rate=4e-3, **SILENT
        )
        base = pretrain.run("python-stdlib", folder / "base", recipe)
        assert base.held_out is not None
        training, held_out = split_documents(open_corpus("python-stdlib"), recipe.split)
        short = [[c for c in mine(side) if len(c.prompt + c.answer) <= LONGEST] for side in (training, held_out)]
        rng = random.Random(0)
        pool, sound = spoilt(rng.sample(short[0], min(2000, len(short[0]))), rng)
        held = rng.sample(short[1], min(HELD_OUT, len(short[1])))
        kept = round(given.share * len(pool))
        scorer = Scorer(folder / "base", "zephyr")
        scores = {
            "heuristics": [heuristic_score(chat) for chat in pool],
            "relevance": scorer.scores(pool, "relevance"),
            "difficulty": scorer.scores(pool, "difficulty"),
        }
        choices = {
            "everything": list(range(len(pool))),
            "the sound half": [i for i, good in enumerate(sound) if good],
            f"{kept} at random": rng.sample(range(len(pool)), kept),
        }
        for by, numbers in scores.items():
            choices[f"{kept} by {by}"] = sorted(range(len(pool)), key=lambda i: -numbers[i])[:kept]
        print(f"base: {base.held_out['bits_per_byte']:.3f} bits per byte of held-out library text")
        print(f"{len(pool)} instructions, {sum(sound)} of them sound; {len(held)} held out; {given.steps} steps of 8\n")
        print("| tuned on | sound | bits per byte of held-out answers, mean of seeds | each |\n|---|---|---|---|")
        for choice, numbers_ in choices.items():
            chosen = [pool[i] for i in numbers_]
            figures = []
            for seed in range(given.seeds):
                with tempfile.TemporaryDirectory(dir=folder) as run:
                    figures.append(tuned(folder / "base", chosen, held, Path(run), given.steps, seed))
            share = sum(sound[i] for i in numbers_) / len(numbers_)
            each = ", ".join(f"{figure:.3f}" for figure in figures)
            print(f"| {choice} | {share:.0%} | {statistics.mean(figures):.3f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
