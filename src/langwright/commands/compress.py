"""langwright compress: a model whose linear layers are quantised."""

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from langwright.base.console import print_json, say
from langwright.base.errors import UserError, check_flag
from langwright.commands._calibration import calibration_windows
from langwright.commands.evaluate import measure, tokens_of
from langwright.compression.quantise import FLOATS, Method, cast_folder, compress_folder, refuse_folders
from langwright.data.shards import Tokens
from langwright.data.supply import evaluation_batches
from langwright.data.windows import Windows
from langwright.inference.opening import check_vocabulary
from langwright.models.folder import OpenedFolder
from langwright.models.surgery.quantise import BITS, Scheme, scheme_of
from langwright.text.opening import load_tokenizer


def compress(
    model: Path,
    out: Path,
    *,
    to: Literal["int8", "w8a8", "int4", "int3", "nf4", "fp4", "bfloat16", "float16"],
    method: Method = "rtn",
    calibrate: str | None = None,
    windows: int = 128,
    window: int | None = None,
    group_size: int | None = None,
    asymmetric: bool = False,
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
        to: int8 (rows), int4 or int3 (groups of 64), nf4 or fp4 (blocks of 64 with double quantisation); w8a8, weights
            and activations in int8; bfloat16 or float16, all tensors.
        method: rtn rounds to the nearest; gptq makes the error of each column good in the columns left; awq scales
            columns by their activations and cuts outliers; smoothquant, for w8a8, moves outliers into the weights.
        calibrate: the corpus that methods other than rtn look at; python-stdlib unless given.
        windows: how many windows of it, evenly spread.
        window: tokens in each; 512, or the model's own context where that is shorter.
        group_size: columns of int4 and int3 that share a scale.
        asymmetric: groups of int4 and int3 with a zero each, which errs less; `transformers` does not open these.
        text: a corpus on which perplexity before and after, and the largest change of a logit, are measured.
        split: measure only the held-out side of this split of the text, such as 5%.
        field: the field or column that holds the text, in corpora that have several.
        context: tokens in a window of --text; the model's own context unless given.
        ignore_field: a field of config.json to pass over although it is not understood.
        json: print the result as JSON.
    """
    scheme = _scheme(to, method, group_size, asymmetric)
    if method == "rtn" and (calibrate or window):
        raise UserError(f"--{'calibrate' if calibrate else 'window'}: goes with --method gptq, awq or smoothquant")
    opened = OpenedFolder(model, ignore_field)
    if text is None and (split or context):
        raise UserError("--split and --context go with --text, the corpus to measure on")
    refuse_folders(opened, out)

    @torch.no_grad()
    def measured(folder: Path, tokens: Tokens) -> tuple[float, Tensor]:
        """The perplexity of a model, and its logits in one window."""
        loaded = OpenedFolder(folder, ignore_field).require(generates=True, one_stack=True).model()
        check_vocabulary(loaded.vocabulary, tokenizer, opened.path)
        perplexity = measure(loaded, tokens, context).perplexity
        window = Windows(tokens, context or loaded.window, once=True)
        return perplexity, loaded(next(evaluation_batches(window, 1)).ids).float()

    tokens = before = None
    with ExitStack() as kept:
        if text is not None:  # what cannot be measured should not be found out when the new folder is there
            tokenizer = load_tokenizer(model)
            tokens = kept.enter_context(tokens_of(tokenizer, text, split, field))
            before = measured(model, tokens)
        shown = calibration_windows(opened, calibrate, windows, window, field) if method != "rtn" else ()
        if scheme is None:
            report: dict[str, Any] = cast_folder(opened, out, to)
        else:
            report = asdict(compress_folder(opened, out, scheme, method, shown))
        if tokens is not None and before is not None:
            after = measured(out, tokens)
            change = float((after[1] - before[1]).abs().max())
            report |= {"perplexity_before": before[0], "perplexity_after": after[0], "largest_logit_change": change}
    if json:
        print_json(report)
        return
    weights = f"{report['weights']:,} weights in {to}, {report['bits_per_weight']:.3f} bits each; " if scheme else ""
    print(f"{weights}all tensors {report['bytes_before'] / 2**20:.2f} -> {report['bytes_after'] / 2**20:.2f} MiB")
    if scheme:
        print(f"largest relative error of a tensor: {report['largest_relative_error']:.4f} ({report['worst_tensor']})")
    if text is not None:
        print(
            f"perplexity per token: {report['perplexity_before']:.4f} -> {report['perplexity_after']:.4f}; "
            f"largest change of a logit: {report['largest_logit_change']:.4f}"
        )
    say(f"wrote {out}")


def _scheme(to: str, method: Method, group_size: int | None, asymmetric: bool) -> Scheme | None:
    """What the flags ask for; None for other floats. UserError for flags that do not go together."""
    groups = to in BITS
    if (group_size is not None or asymmetric) and not groups:
        raise UserError(f"--{'asymmetric' if asymmetric else 'group-size'}: goes with --to {' or '.join(BITS)}")
    if group_size is not None:
        check_flag("group_size", group_size, group_size > 0 and group_size % 4 == 0, "a multiple of 4")
    if to in FLOATS:
        if method != "rtn":
            raise UserError(f"--method {method}: --to {to} rounds each number by itself")
        return None
    if method == "smoothquant" and to != "w8a8":
        raise UserError(f"--method smoothquant: goes with --to w8a8, whose activations are rounded, not with {to}")
    return replace(scheme_of(to), group=group_size, symmetric=not asymmetric)
