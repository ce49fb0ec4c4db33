"""Masked and span pretraining beside `transformers`, in turn, in one process: text tokens a second, collating included.

    python benchmarks/objectives.py [--text FILE] [--steps 12] [--rounds 3] [--vocabulary 8192]

A BERT and a T5 of depth 4 (256 wide) on rows of 128 tokens of text, 16 a step, AdamW, no dropout; ours in float32 and
in the dtype that our commands choose, the peer in float32, as it comes. The peer is
the model of `transformers` with the same weights, in the loop of its own examples: for masks its
`DataCollatorForLanguageModeling`; for spans, where the library has no collator, our batches. Both see the same number
of text tokens.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from langwright.corpora.opening import open_corpus
from langwright.data.order import Layout
from langwright.data.pieces import Framing
from langwright.data.reading import Noisy
from langwright.data.shards import Tokens
from langwright.data.supply import Batches
from langwright.data.texts import tokenise
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth, with_tokens
from langwright.objectives.language import TokenPrediction
from langwright.planning.machine import choose_dtype
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import train_bpe
from langwright.training.learner import Learner
from langwright.training.recipe import TrainingRecipe

CONTEXT, ROWS, DEPTH, RATE = 128, 16, 4, 1e-4
Step = Callable[[int], float]


def framing(family: str, tokenizer: Tokenizer) -> Framing:
    """What stands around a text."""
    bos, eos, pad = (int(id or 0) for id in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id))
    return Framing((bos,), (eos,)) if family == "bert" else Framing((), (eos,), pad)


def steps_of(family: str, objective: str, tokens: Tokens, tokenizer: Tokenizer, folder: Path) -> dict[str, Step]:
    """A training step of ours, in two dtypes, and of the peer's, each with its own collating, from the same weights."""
    reading = Noisy(objective, CONTEXT, lambda made: framing(family, made))
    batches = Batches(reading.rows(tokenizer, tokens, 0, training=True), Layout(ROWS, 0))
    config = with_tokens(
        family, by_depth(family, DEPTH, tokenizer.vocab_size, CONTEXT, 0.0), tokenizer.eos_id, tokenizer.pad_id
    )
    model = new_model(family, config, head="masked" if family == "bert" else None)
    save_model(model, tokenizer, folder)

    def ours(dtype: torch.dtype) -> Step:
        recipe = TrainingRecipe(learning_rate=RATE)
        learner = Learner({"model": copy.deepcopy(model)}, TokenPrediction(), dtype, recipe)

        def step(number: int) -> float:
            loss = learner.backward(batches.batch(number)).loss
            learner.clip()
            learner.step(1.0)
            return float(loss)

        return step

    auto = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForSeq2SeqLM
    peer = auto.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(peer.parameters(), lr=RATE, weight_decay=0.1)
    collate: Any = None
    if family == "bert":
        collate = transformers.DataCollatorForLanguageModeling(transformers.AutoTokenizer.from_pretrained(folder))
    plain = Batches(reading.rows(tokenizer, tokens, 0, training=True), Layout(ROWS, 0))
    draw = np.random.default_rng(0)

    def inputs(step: int) -> dict[str, torch.Tensor]:
        if family == "bert":
            starts = draw.integers(0, len(tokens) - CONTEXT, ROWS)
            first, last = framing(family, tokenizer).first, framing(family, tokenizer).last
            rows = [[*first, *tokens.ids[s : s + CONTEXT - 2].tolist(), *last] for s in starts]
            return dict(collate([{"input_ids": row} for row in rows]))
        batch = plain.batch(step)
        labels = batch.targets.masked_fill(batch.weights == 0, -100)  # type: ignore[attr-defined]
        mask = batch.source_mask  # type: ignore[attr-defined]
        named = {"input_ids": batch.source, "decoder_input_ids": batch.ids, "labels": labels}  # type: ignore[attr-defined]
        return named if mask is None else {**named, "attention_mask": mask.long()}

    def theirs(step: int) -> float:
        loss = peer(**inputs(step)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    chosen = choose_dtype("auto", torch.device("cpu"))
    return {"float32": ours(torch.float32), f"auto ({chosen})": ours(chosen), "transformers": theirs}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="python-stdlib")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=8192)
    chosen = parser.parse_args()
    transformers.logging.set_verbosity_error()
    corpus = open_corpus(chosen.text)
    made = train_bpe((document.text for _, document in zip(range(200), corpus, strict=False)), chosen.vocabulary)
    print("| objective | dtype | ours, ms a step | transformers, float32, ms | transformers / ours |")
    print("|---|---|---|---|---|")
    for family, objective in (("bert", "masked"), ("t5", "span")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            reading = Noisy(objective, CONTEXT, lambda tokenizer, family=family: framing(family, tokenizer))  # type: ignore[misc]
            tokenizer = reading.ready(made)
            documents = (document for _, document in zip(range(200), corpus, strict=False))
            tokens = tokenise(documents, tokenizer, folder / "text.tokens")
            steps = steps_of(family, objective, tokens, tokenizer, folder / "model")
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(chosen.rounds):
                for name, step in steps.items():
                    step(0)
                    for number in range(chosen.steps):
                        began = time.perf_counter()
                        step(number)
                        times[name].append(time.perf_counter() - began)
            *mine, theirs = ((name, 1000 * statistics.median(each)) for name, each in times.items())
            for name, taken in mine:
                print(
                    f"| {objective} ({family}) | {name.replace('torch.', '')} | {taken:.0f} | {theirs[1]:.0f} | "
                    f"{theirs[1] / taken:.2f}x |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
