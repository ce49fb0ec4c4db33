"""The text that compression looks at: windows of a corpus, evenly spread."""

import numpy as np

from langwright.base.console import say
from langwright.base.errors import UserError, check_flag
from langwright.commands.evaluate import tokens_of
from langwright.compression.calibration import Windows
from langwright.corpora.files import STDLIB
from langwright.data.windows import Windows as Numbered
from langwright.inference.opening import check_vocabulary
from langwright.models.folder import OpenedFolder
from langwright.text.opening import load_tokenizer

WINDOW, BATCH = 512, 8
"""Tokens in a window unless the context is shorter, and windows in a pass."""


def calibration_windows(
    opened: OpenedFolder, corpus: str | None, windows: int = 128, window: int | None = None, field: str = "text"
) -> Windows:
    """Token ids of windows of a corpus, all of them full, in batches.

    Raises UserError for a model that reads no text in one stack, flags that do not fit it, or too short a corpus.
    """
    opened.require(one_stack=True)
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
        return [every.batch(part, part).ids for part in np.array_split(numbers, -(-len(numbers) // BATCH))]
