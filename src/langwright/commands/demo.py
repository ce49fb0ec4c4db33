"""langwright demo: the whole way on the built-in corpus, from raw text to tuned models and a report."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from langwright.base.console import format_seconds, print_json, say
from langwright.base.errors import UserError
from langwright.base.files import read_json, write_atomic, write_json
from langwright.baselines.compressors import gzip_bits_per_byte, xz_bits_per_byte
from langwright.baselines.ngram import NGram
from langwright.commands import finetune, pretrain
from langwright.commands._demo.instructions import Asked, compare_answers, write_instructions
from langwright.commands._demo.writing import (
    Body,
    Prompts,
    choose_prompts,
    finish_docstrings,
    given_bodies,
    model_bodies,
    ngram_bodies,
)
from langwright.commands.finetune import TuningRecipe
from langwright.commands.show import attention_over
from langwright.corpora.opening import open_corpus
from langwright.corpora.splits import split_documents
from langwright.models.folder import RECORD, load_language_model
from langwright.text.tokenizer import load_tokenizer
from langwright.training.recipe import PretrainRecipe
from langwright.training.report import run_report
from langwright.training.trainer import close
from langwright.viewing.report import (
    BeforeAfter,
    Comparison,
    FineTuning,
    Parsing,
    Report,
    Sample,
    Score,
    Share,
    report,
)

CORPUS = "python-stdlib"
OURS = "Langwright model"
NOTES = {
    OURS: "has read the training text",
    "byte 6-gram": "has read the training text; modified Kneser-Ney",
    "gzip -9": "starts empty",
    "xz -9e": "starts empty",
    "pass": "always parses, does nothing",
}
HEADS, DOCSTRINGS, SHOWN = 96, 6, 6
MODULE_BYTES = (20_000, 80_000)
"""How large the held-out module is that the demo fine-tunes on."""


def demo(out: Path = Path("demo"), budget: str = "6m", depth: int = 4, corpus: str = CORPUS, json: bool = False) -> int:
    """Pretrain on Python's own library, measure, let it write, tune on a module and on instructions, write a report.

    out: the folder for the models and report.html.
    budget: time for pretraining; the rest takes two to five minutes more.
    depth: the one dial of size.
    corpus: other Python source to train on.
    json: print the result as JSON.
    """
    started = time.monotonic()
    base = out / "model"
    say(f"1. pretraining on {corpus} for {budget}; Ctrl-C saves, and the same command goes on")
    recipe = PretrainRecipe(budget=budget, depth=depth, optimizer="muon", learning_rate=4e-3, save_every="100 steps")
    result = pretrain.run(corpus, base, recipe)
    if result.held_out is None:
        return close(result, base)
    split = recipe.split
    training, held_out = split_documents(open_corpus(corpus), split)
    held_out_texts = [document.text for document in held_out]

    say("2. the same held-out text for gzip, xz and a byte 6-gram")
    ngram = NGram.train((document.text.encode() for document in training), order=6)
    scores = _baselines(ngram, training, held_out_texts)

    say("3. writing: bodies for held-out function heads, ends for docstrings")
    model, tokenizer = load_language_model(base, dtype=torch.float32), load_tokenizer(base)
    prompts = choose_prompts(held_out_texts, tokenizer, model.context, HEADS, DOCSTRINGS)
    if not prompts.heads:
        raise UserError(f"{corpus}: no Python function is held out that the demo could continue; choose Python source")
    writers = {
        OURS: model_bodies(model, tokenizer, prompts.heads),
        "byte 6-gram": ngram_bodies(ngram, prompts.heads),
        "pass": given_bodies(prompts.heads, lambda f: f.indent + "pass\n"),
        "the author": given_bodies(prompts.heads, lambda f: f.body),
    }

    say("4. fine-tuning on one held-out module")
    module, rest = _separate(held_out_texts, out)
    tuning = TuningRecipe(steps="6 epochs", old_text=str(rest), sample_every="0 steps")
    tuned = finetune.run(base, str(module), out / "finetuned", tuning)
    if tuned.held_out is None:
        return close(tuned, out / "finetuned")

    say("5. instructions: a signature and its docstring are asked, the body is the answer; an adapter learns it")
    part = write_instructions(out / "instructions.jsonl", training, held_out)
    options: dict[str, Any] = {"method": "lora", "target": "all-linear"}
    following = TuningRecipe(
        task="chat", template="zephyr", packing=True, split=part, steps="2 epochs", old_text=str(module),
        sample_every="0 steps", **options,
    )  # fmt: skip
    followed = finetune.run(base, str(out / "instructions.jsonl"), out / "assistant", following)
    if followed.held_out is None:
        return close(followed, out / "assistant")
    asked = compare_answers(base, out / "assistant", prompts.heads)

    summary = _summary(out, result.held_out["bits_per_byte"], scores, writers, asked, time.monotonic() - started)
    samples = _samples(prompts, writers, finish_docstrings(model, tokenizer, prompts.docstrings))
    line = next(line for line in prompts.heads[0].head.splitlines() if line.strip())
    attention = attention_over(model, tokenizer, line)
    page = dataclasses.replace(_report(out, summary, samples), attention=attention)
    write_atomic(out / "report.html", report(page))
    write_json(out / "demo.json", summary)
    _tell(summary, out, json)
    return 0


def _baselines(ngram: NGram, training: Any, held_out: Sequence[str]) -> dict[str, float]:
    texts = [text.encode() for text in held_out]
    whole, before = b"".join(texts), b"".join(document.text.encode() for document in training)
    return {
        "byte 6-gram": ngram.bits_per_byte(texts),
        "gzip -9": gzip_bits_per_byte(whole),
        "xz -9e": xz_bits_per_byte(whole),
        "xz -9e after the training text": xz_bits_per_byte(whole, before),
    }


def _separate(held_out: Sequence[str], out: Path) -> tuple[Path, Path]:
    """Write one held-out module to tune on, and the others, on which forgetting is measured, to a folder beside it."""
    smallest, largest = MODULE_BYTES
    fitting = [text for text in held_out if smallest <= len(text.encode()) <= largest]
    chosen = max(fitting or held_out, key=lambda text: len(text.encode()))
    write_atomic(out / "module.py", chosen)
    for number, text in enumerate(text for text in held_out if text != chosen):
        write_atomic(out / "held-out" / f"{number:04}.py", text)
    return out / "module.py", out / "held-out"


def _summary(
    out: Path,
    bits_per_byte: float,
    scores: dict[str, float],
    writers: dict[str, list[Body]],
    asked: Asked,
    seconds: float,
) -> dict[str, Any]:
    """The demo's numbers, units named."""
    return {
        "bits_per_byte": {OURS: bits_per_byte, **scores},
        "bodies_that_parse": {name: sum(body.parses for body in bodies) for name, bodies in writers.items()},
        "bodies": len(next(iter(writers.values()))),
        "forgetting": read_json(out / "finetuned" / RECORD, "the record of the fine-tuning")["forgetting"],
        "instructions": {"asked": len(asked.bodies), "before": asked.before, "after": asked.after},
        "seconds": round(seconds, 1),
    }


def _samples(prompts: Prompts, writers: dict[str, list[Body]], docstrings: Sequence[str]) -> list[Sample]:
    """What the model wrote, good and bad as it came: the first prompts of the seeded choice."""
    bodies = [
        Sample(f.head, body.body, "function body", "parses" if body.parses else "does not parse", body.parses, f.body)
        for f, body in list(zip(prompts.heads, writers[OURS], strict=True))[:SHOWN]
    ]
    ends = [
        Sample(d.prompt, text, "docstring", truth=d.rest)
        for d, text in zip(prompts.docstrings, docstrings, strict=True)
    ]
    return [*bodies, *ends]


def _report(out: Path, summary: dict[str, Any], samples: Sequence[Sample]) -> Report:
    base = run_report(out / "model")
    scores = summary["bits_per_byte"]
    best = min((value, name) for name, value in scores.items() if name != OURS)
    shares = [
        Share(name, passed, summary["bodies"], NOTES.get(name, ""), ours=name == OURS)
        for name, passed in summary["bodies_that_parse"].items()
    ]
    asked = summary["instructions"]
    if asked["asked"]:
        shares += [
            Share("asked to, base model", asked["before"], asked["asked"], "never saw a question"),
            Share("asked to, with adapter", asked["after"], asked["asked"], "tuned by LoRA on instructions", ours=True),
        ]
    tuning = [
        BeforeAfter({"new": "the new module", "old": "the old held-out text"}[name], change["before"], change["after"])
        for name, change in summary["forgetting"].items()
    ]
    return dataclasses.replace(
        base,
        title="A language model from raw text",
        lead=(
            f"Trained on Python's own library in {base.facts[3].value}, this model needs {scores[OURS]:.3f} bits for a "
            f"byte of text it has not seen; the best of the others here, {best[1]}, needs {best[0]:.3f}."
        ),
        comparison=Comparison(
            [Score(name, value, NOTES.get(name, ""), ours=name == OURS) for name, value in scores.items()],
            "Modules of the library that were held out by a hash of their content.",
        ),
        samples=samples,
        samples_about="Prompts come from held-out modules, by a seeded choice; nothing is picked by hand.",
        parsing=Parsing(shares, "Bodies after the heads of held-out functions, judged by Python's parser alone."),
        finetuning=FineTuning(tuning, "One held-out module: nine tenths to learn from, one tenth to measure."),
    )


def _tell(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    print("bits per byte of held-out text (lower is better):")
    for name, value in sorted(summary["bits_per_byte"].items(), key=lambda item: float(item[1])):
        print(f"  {value:.3f}  {name}")
    print(f"function bodies that parse, of {summary['bodies']}:")
    for name, passed in summary["bodies_that_parse"].items():
        print(f"  {passed:5}  {name}")
    asked = summary["instructions"]
    print(f"asked for the bodies of {asked['asked']} documented functions, answers that parse:")
    print(f"  {asked['before']:5}  base model\n  {asked['after']:5}  with the adapter that learnt instructions")
    print("fine-tuning on one module, bits per byte held out:")
    for name, change in summary["forgetting"].items():
        print(f"  {name} text {change['before']:.3f} -> {change['after']:.3f}")
    say(f"all in {format_seconds(summary['seconds'])}; look at {out / 'report.html'}")
    say(f"go on: langwright generate {out / 'model'} --prompt 'def '")
    say(f"or: langwright chat {out / 'model'} --adapter {out / 'assistant'}")
