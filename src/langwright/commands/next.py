"""langwright next: what a model expects to come."""

import math
from pathlib import Path

from langwright.base.console import print_json, say
from langwright.base.errors import UserError, check_flag
from langwright.evaluation.likeliest import likeliest_continuations, likeliest_fillings, next_tokens
from langwright.pipelines.opening import Opening
from langwright.viewing.terminal import bars


def next_token(
    model: Path,
    text: str,
    top: int = 10,
    length: int = 1,
    temperature: float = 1.0,
    opening: Opening = Opening(),
    json: bool = False,
) -> None:
    """The likeliest next tokens of a text with their probabilities, as a bar chart; or those for a mask in it.

    With --length, the likeliest continuations of so many tokens, or fewer where the text ends.

    Args:
        model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
        text: what comes before; for a masked model such as BERT, a text with its mask token, as in "It is [MASK]."
        top: how many are shown.
        length: tokens of a continuation.
        temperature: divides the logits first: below 1 sharpens the distribution, above 1 flattens it.
        opening: how the model is opened.
        json: print the result as JSON.
    """
    check_flag("top", top, top >= 1, "at least 1")
    check_flag("temperature", temperature, 1e-6 <= temperature < math.inf, "at least 1e-6 and finite")
    check_flag("length", length, length >= 1, "at least 1")
    check_flag("top", top, length == 1 or top <= 1000, "at most 1,000 beside --length")
    loaded, tokenizer = opening.open(model, one_stack=True)
    if length > 1:
        if not loaded.generates:
            raise UserError(f"--length {length}: {model} writes no text; it fills one mask at a time")
        several, given_up = likeliest_continuations(loaded, tokenizer, text, top, length, temperature)
        if given_up > several[-1][1]:
            say(f"there may be others, none likelier than {given_up:.2g}")
        found = [("".join(map(tokenizer.token, ids)), ids, p) for ids, p in several]
        if json:
            print_json([{"text": words, "ids": ids, "probability": p} for words, ids, p in found])
        else:
            print("\n".join(bars([(words, p) for words, _, p in found], 72)))
        return
    likeliest = next_tokens if loaded.generates else likeliest_fillings
    tokens = [(tokenizer.token(i), i, p) for i, p in likeliest(loaded, tokenizer, text, top, temperature)]
    if json:
        print_json([{"token": token, "id": i, "probability": p} for token, i, p in tokens])
    else:
        print("\n".join(bars([(token, p) for token, _, p in tokens], 72)))
