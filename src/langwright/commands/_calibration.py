"""The text that compression looks at, and the text on which a model is measured before and after."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langwright.base.console import say
from langwright.base.errors import UserError, check_flag
from langwright.commands.evaluate import measure, tokens_of
from langwright.compression.calibration import Windows
from langwright.corpora.files import STDLIB
from langwright.data.shards import Tokens
from langwright.data.supply import evaluation_batches
from langwright.data.windows import Windows as Numbered
from langwright.models.folder import OpenedFolder
from langwright.pipelines.opening import check_vocabulary
from langwright.text.opening import load_tokenizer

WINDOWS, WINDOW, BATCH = 128, 512, 4096
"""Windows, tokens in one unless the context is shorter, and in a pass, the first of which AWQ tries scales on."""


@dataclass(frozen=True)
class Calibrating:
    """The text that a method looks at.

    Args:
        calibrate: the corpus that shows what matters; python-stdlib unless given.
        windows: how many windows of it, evenly spread; 128 unless given.
        window: tokens in each; 512, or the model's own context where that is shorter.
    """

    calibrate: str | None = None
    windows: int | None = None
    window: int | None = None

    def refuse(self, why: str) -> None:
        """UserError for flags of a text that a method does not look at."""
        for name, value in vars(self).items():
            if value is not None:
                raise UserError(f"--{name}: {why}; leave it out")


@dataclass(frozen=True)
class Measuring:
    """The text that a model is measured on before and after.

    Args:
        text: a corpus on which perplexity before and after, and the largest change of a logit, are measured.
        split: measure only the held-out side of this split of the text, such as 5%.
        field: the field or column that holds the text, in corpora that have several.
        context: tokens in a window of --text; the model's own context unless given.
        ignore_field: a field of config.json to pass over although it is not understood.
    """

    text: str | None = None
    split: str | None = None
    field: str = "text"
    context: int | None = None
    ignore_field: tuple[str, ...] = ()


def calibration_windows(opened: OpenedFolder, asked: Calibrating, field: str = "text") -> Windows:
    """Token ids of windows of a corpus, all of them full, in batches.

    Raises UserError for a model that reads no text in one stack, flags that do not fit it, or too short a corpus.
    """
    opened.require(one_stack=True)
    corpus, window, windows = asked.calibrate, asked.window, WINDOWS if asked.windows is None else asked.windows
    check_flag("windows", windows, windows >= 1, "at least 1")
    context = opened.config.context
    length = min(WINDOW, context or WINDOW) if window is None else window
    most = "at least 2" if context is None else f"from 2 to the model's context of {context}"
    check_flag("window", length, length >= 2 and (context is None or length <= context), most)
    if corpus is None:
        say(f"--calibrate names no corpus: calibrating on {STDLIB}")
    tokenizer = load_tokenizer(opened.path)
    check_vocabulary(opened.config.vocab_size, tokenizer, opened.path)
    with tokens_of(tokenizer, corpus or STDLIB, None, field) as tokens:
        every = Numbered(tokens, length, crossing=True)
        if not len(every) or every.inputs < length:
            raise UserError(f"--calibrate {corpus or STDLIB}: has less than one window of {length} tokens")
        if len(every) < windows:
            say(f"{corpus or STDLIB} has {len(every):,} windows of {length} tokens, not {windows:,}; taking all")
        numbers = np.unique(np.linspace(0, len(every) - 1, windows).round().astype(np.int64))
        return [every.batch(part, part).ids for part in np.array_split(numbers, -(-len(numbers) * length // BATCH))]


def compared(opened: OpenedFolder, out: Path, make: Callable[[], dict[str, Any]], asked: Measuring) -> dict[str, Any]:
    """What `make`, which writes the folder `out`, reports, and the perplexity of a text before and after.

    What cannot be measured is refused before anything is made.
    """
    text, context = asked.text, asked.context
    if text is None and (asked.split or context):
        raise UserError("--split and --context go with --text, the corpus to measure on")
    if text is None:
        return make()

    @torch.no_grad()
    def measured(folder: Path, tokens: Tokens) -> tuple[float, Tensor]:
        """The perplexity of a model, and its logits in one window."""
        loaded = OpenedFolder(folder, asked.ignore_field).require(generates=True, one_stack=True).model()
        check_vocabulary(loaded.vocabulary, tokenizer, opened.path)
        perplexity = measure(loaded, tokens, context).perplexity
        window = Numbered(tokens, context or loaded.window, once=True)
        return perplexity, loaded(next(evaluation_batches(window, 1)).ids).float()

    with ExitStack() as kept:
        tokenizer = load_tokenizer(opened.path)
        tokens = kept.enter_context(tokens_of(tokenizer, text, asked.split, asked.field))
        before = measured(opened.path, tokens)
        report = make()
        after = measured(out, tokens)
    change = float((after[1] - before[1]).abs().max())
    return report | {"perplexity_before": before[0], "perplexity_after": after[0], "largest_logit_change": change}


def print_change(report: dict[str, Any]) -> None:
    """What `compared` found, for people."""
    if "perplexity_after" in report:
        print(
            f"perplexity per token: {report['perplexity_before']:.4f} -> {report['perplexity_after']:.4f}; "
            f"largest change of a logit: {report['largest_logit_change']:.4f}"
        )
