"""langwright compress: a model whose linear layers are quantised."""

import itertools
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from langwright.base.console import print_json, say
from langwright.base.errors import UserError
from langwright.commands.evaluate import measure_text
from langwright.compression.quantise import Compression, compress_folder, refuse_folders
from langwright.corpora.opening import open_corpus
from langwright.corpora.splits import split_documents
from langwright.evaluation.likelihood import Likelihood
from langwright.models.folder import OpenedFolder
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer, load_tokenizer

CHARACTERS = 4000
"""Of the text, at most, on which logits are compared."""


def compress(
    model: Path,
    out: Path,
    *,
    to: Literal["int8", "int4", "nf4", "fp4"],
    text: str | None = None,
    split: str | None = None,
    field: str = "text",
    context: int | None = None,
    ignore_field: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Quantise the linear layers of a model, and report what that costs and saves.

    model: the folder of the model to begin with, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
    out: the new model folder.
    to: int8 (rows), int4 (groups of 64), nf4 or fp4 (blocks of 64 with double quantisation).
    text: a corpus on which perplexity before and after, and the largest change of a logit, are measured.
    split: measure only the held-out side of this split of the text, such as 5%.
    field: the field or column that holds the text, in corpora that have several.
    context: tokens in a window; the model's own context unless given.
    ignore_field: a field of config.json to pass over although it is not understood.
    json: print the result as JSON.
    """
    opened = OpenedFolder(model, ignore_field)
    if text is None and (split or context):
        raise UserError("--split and --context go with --text, the corpus to measure on")
    refuse_folders(opened, out)

    def measure(folder: Path) -> tuple[Likelihood, Tensor]:
        assert text is not None
        loaded = OpenedFolder(folder, ignore_field).require(generates=True, one_stack=True).model()
        tokenizer = load_tokenizer(model)
        measured = measure_text(loaded, tokenizer, text, split, field, context)
        return measured, _logits(loaded, tokenizer, text, split, field, context)

    # What cannot be measured should not be found out when the new folder is there.
    before = None if text is None else measure(opened.path)
    result = compress_folder(opened, out, to)
    report = result.record()
    if before is not None:
        after = measure(out)
        report |= {
            "perplexity_before": before[0].perplexity,
            "perplexity_after": after[0].perplexity,
            "largest_logit_change": float((after[1] - before[1]).abs().max()),
        }
    if json:
        print_json(report)
    else:
        print("\n".join(_words(to, result, report)))
        say(f"wrote {out}")


def _words(to: str, result: Compression, report: dict[str, Any]) -> list[str]:
    lines = [
        f"{result.weights:,} weights in {to}, {result.bits:.3f} bits each; "
        f"all tensors {result.before / 2**20:.2f} -> {result.after / 2**20:.2f} MiB",
        f"largest relative error of a tensor: {result.error:.4f} ({result.worst})",
    ]
    if "perplexity_before" in report:
        lines.append(
            f"perplexity per token: {report['perplexity_before']:.4f} -> {report['perplexity_after']:.4f}; "
            f"largest change of a logit: {report['largest_logit_change']:.4f}"
        )
    return lines


@torch.no_grad()
def _logits(
    model: Model, tokenizer: Tokenizer, text: str, split: str | None, field: str, context: int | None
) -> Tensor:
    """Of the first window of the text."""
    corpus = open_corpus(text, field=field)
    documents = corpus if split is None else split_documents(corpus, split)[1]
    first = next(itertools.chain((d.text for d in documents if d.text), [""]))
    ids = tokenizer.encode(first[:CHARACTERS])[: context or model.context]
    return model(torch.tensor([ids or [0]])).float()
