"""langwright demo: the whole way on the built-in corpus, from raw text to tuned models and a report."""

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
from langwright.commands import _demo, finetune, pretrain
from langwright.commands.finetune import TuningRecipe
from langwright.commands.show import read
from langwright.commands.show import sections as attention_sections
from langwright.corpora.opening import open_corpus
from langwright.corpora.splits import split_documents
from langwright.models.folder import RECORD, OpenedFolder
from langwright.text.opening import load_tokenizer
from langwright.training.recipe import PretrainRecipe
from langwright.training.report import OVERLINE, run_report
from langwright.training.trainer import close
from langwright.viewing.charts import Bar, bars
from langwright.viewing.page import Section, page
from langwright.viewing.report import Sample, changes, writing
from langwright.viewing.text import percent

CORPUS = "python-stdlib"
OURS, WITH_ADAPTER = "Langwright model", "asked to, with adapter"
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

    Args:
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
    training, held_out = split_documents(open_corpus(corpus), recipe.split)
    held_out_texts = [document.text for document in held_out]

    say("2. the same held-out text for gzip, xz and a byte 6-gram")
    texts = [text.encode() for text in held_out_texts]
    whole = b"".join(texts)
    ngram = NGram.train((document.text.encode() for document in training), order=6)
    measured = {
        OURS: result.held_out["bits_per_byte"],
        "byte 6-gram": ngram.bits_per_byte(texts),
        "gzip -9": gzip_bits_per_byte(whole),
        "xz -9e": xz_bits_per_byte(whole),
        "xz -9e after the training text": xz_bits_per_byte(whole, b"".join(d.text.encode() for d in training)),
    }
    scores = dict(sorted(measured.items(), key=lambda item: item[1]))

    say("3. writing: bodies for held-out function heads, ends for docstrings")
    model, tokenizer = OpenedFolder(base).model(dtype=torch.float32), load_tokenizer(base)
    heads, halves = _demo.choose_prompts(held_out_texts, tokenizer, model.context, HEADS, DOCSTRINGS)
    if not heads:
        raise UserError(f"{corpus}: no Python function is held out that the demo could continue; choose Python source")
    writers = {
        OURS: _demo.model_bodies(model, tokenizer, heads),
        "byte 6-gram": _demo.ngram_bodies(ngram, heads),
        "pass": _demo.bodies(heads, [function.indent + "pass\n" for function in heads]),
        "the author": _demo.bodies(heads, [function.body for function in heads]),
    }

    say("4. fine-tuning on one held-out module")
    module, rest = _separate(held_out_texts, out)
    tuning = TuningRecipe(steps="6 epochs", old_text=str(rest), sample_every="0 steps")
    tuned = finetune.run(base, str(module), out / "finetuned", tuning)
    if tuned.held_out is None:
        return close(tuned, out / "finetuned")

    say("5. instructions: a signature and its docstring are asked, the body is the answer; an adapter learns it")
    part = _demo.write_instructions(out / "instructions.jsonl", training, held_out)
    options: dict[str, Any] = {"method": "lora", "target": "all-linear"}
    following = TuningRecipe(
        task="chat", template="zephyr", packing=True, split=part, steps="2 epochs", old_text=str(module),
        sample_every="0 steps", **options,
    )  # fmt: skip
    followed = finetune.run(base, str(out / "instructions.jsonl"), out / "assistant", following)
    if followed.held_out is None:
        return close(followed, out / "assistant")
    asked = _demo.compare_answers(base, out / "assistant", heads)

    summary = _summary(out, scores, writers, asked, time.monotonic() - started)
    ends = _demo.write(model, tokenizer, [half.prompt for half in halves], stop=('"""',))
    samples = [
        Sample(f.head, body.text, "function body", "parses" if body.parses else "does not parse", body.parses, f.body)
        for f, body in list(zip(heads, writers[OURS], strict=True))[:SHOWN]
    ]
    samples += [Sample(d.prompt, end, "docstring", truth=d.rest) for d, end in zip(halves, ends, strict=True)]
    line = next(line for line in heads[0].head.splitlines() if line.strip())
    _, attention = attention_sections([read(model, tokenizer, line)])
    write_atomic(out / "report.html", _report(out, summary, samples, attention))
    write_json(out / "demo.json", summary)
    _tell(summary, out, json)
    return 0


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
    out: Path, scores: dict[str, float], writers: dict[str, list[_demo.Body]], asked: dict[str, int], seconds: float
) -> dict[str, Any]:
    """The demo's numbers, units named."""
    return {
        "bits_per_byte": scores,
        "bodies_that_parse": {name: sum(body.parses for body in written) for name, written in writers.items()},
        "bodies": len(writers["pass"]),
        "forgetting": read_json(out / "finetuned" / RECORD, "the record of the fine-tuning")["forgetting"],
        "instructions": asked,
        "seconds": round(seconds, 1),
    }


def _report(out: Path, summary: dict[str, Any], samples: Sequence[Sample], attention: Section) -> str:
    top, (learning, *rest) = run_report(out / "model")
    scores, count, asked = summary["bits_per_byte"], summary["bodies"], summary["instructions"]
    nearest = next(name for name in scores if name != OURS)
    shares = [(name, passed, count, NOTES.get(name)) for name, passed in summary["bodies_that_parse"].items()]
    if asked["asked"]:
        shares.append(("asked to, base model", asked["before"], asked["asked"], "never saw a question"))
        shares.append((WITH_ADAPTER, asked["after"], asked["asked"], "tuned by LoRA on instructions"))
    passed = [
        Bar(name, passed / total, f"{passed} of {total}{f'; {note}' if note else ''}", name in (OURS, WITH_ADAPTER))
        for name, passed, total, note in shares
    ]
    names = {"new": "the new module", "old": "the old held-out text"}
    tuning = {names[name]: (change["before"], change["after"]) for name, change in summary["forgetting"].items()}
    seconds = read_json(out / "model" / RECORD, "the record of the run")["seconds"]
    rows = [Bar(name, score, NOTES.get(name, ""), name == OURS) for name, score in scores.items()]
    compared = bars(rows, ("Model", "Bits per byte", "Remark"), "{:.3f}".format)
    written = writing(bars(passed, ("Writer", "Share", "Count"), percent), samples)
    sections = [
        Section("result", "Held-out text", compared, "Modules held out by a hash of their content; lower is better."),
        learning,
        Section("writing", "Writing", written, "Prompts by a seeded choice, none by hand; Python's parser judges."),
        Section("finetuning", "Fine-tuning", changes(tuning), "Learnt from nine tenths of one held-out module."),
        attention,
        *rest,
    ]
    lead = (
        f"Trained on Python's own library in {format_seconds(seconds)}, this model needs {scores[OURS]:.3f} bits for a "
        f"byte of text it has not seen; the best of the others here, {nearest}, needs {scores[nearest]:.3f}."
    )
    return page("A language model from raw text", sections, lead, OVERLINE, top)


def _tell(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    print("bits per byte of held-out text (lower is better):")
    for name, value in summary["bits_per_byte"].items():
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
