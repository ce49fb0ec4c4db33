"""langwright compress: a model whose linear layers are quantised."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from langwright.base.console import print_json, say
from langwright.base.errors import UserError
from langwright.commands.evaluate import measure, tokens_of
from langwright.compression.quantise import compress_folder, refuse_folders
from langwright.data.shards import Tokens
from langwright.data.supply import evaluation_batches
from langwright.data.windows import Windows
from langwright.inference.opening import check_vocabulary
from langwright.models.folder import OpenedFolder
from langwright.text.opening import load_tokenizer


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

    Args:
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

    @torch.no_grad()
    def measured(folder: Path, tokens: Tokens) -> tuple[float, Tensor]:
        """The perplexity of a model, and its logits in one window."""
        loaded = OpenedFolder(folder, ignore_field).require(generates=True, one_stack=True).model()
        check_vocabulary(loaded, tokenizer, opened.path)
        perplexity = measure(loaded, tokens, context).perplexity
        window = Windows(tokens, context or loaded.window, once=True)
        return perplexity, loaded(next(evaluation_batches(window, 1)).ids).float()

    tokens = before = None
    with ExitStack() as kept:
        if text is not None:  # what cannot be measured should not be found out when the new folder is there
            tokenizer = load_tokenizer(model)
            tokens = kept.enter_context(tokens_of(tokenizer, text, split, field))
            before = measured(model, tokens)
        result = compress_folder(opened, out, to)
        report = asdict(result)
        if tokens is not None and before is not None:
            after = measured(out, tokens)
            change = float((after[1] - before[1]).abs().max())
            report |= {"perplexity_before": before[0], "perplexity_after": after[0], "largest_logit_change": change}
    if json:
        print_json(report)
        return
    print(
        f"{result.weights:,} weights in {to}, {result.bits_per_weight:.3f} bits each; "
        f"all tensors {result.bytes_before / 2**20:.2f} -> {result.bytes_after / 2**20:.2f} MiB\n"
        f"largest relative error of a tensor: {result.largest_relative_error:.4f} ({result.worst_tensor})"
    )
    if text is not None:
        print(
            f"perplexity per token: {report['perplexity_before']:.4f} -> {report['perplexity_after']:.4f}; "
            f"largest change of a logit: {report['largest_logit_change']:.4f}"
        )
    say(f"wrote {out}")
