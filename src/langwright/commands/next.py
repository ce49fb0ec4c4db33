"""langwright next: what a model expects to come."""

import math
from pathlib import Path

from langwright.base.console import print_json
from langwright.base.errors import check_flag
from langwright.inference.generate import likeliest_fillings, next_tokens
from langwright.inference.opening import Opening
from langwright.viewing.terminal import bars


def next_token(
    model: Path,
    text: str,
    top: int = 10,
    temperature: float = 1.0,
    opening: Opening = Opening(),
    json: bool = False,
) -> None:
    """The likeliest next tokens of a text with their probabilities, as a bar chart; or those for a mask in it.

    Args:
        model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
        text: what comes before; for a masked model such as BERT, a text with its mask token, as in "It is [MASK]."
        top: how many tokens are shown.
        temperature: divides the logits first: below 1 sharpens the distribution, above 1 flattens it.
        opening: how the model is opened.
        json: print the result as JSON.
    """
    check_flag("top", top, top >= 1, "at least 1")
    check_flag("temperature", temperature, 1e-6 <= temperature < math.inf, "at least 1e-6 and finite")
    loaded, tokenizer = opening.open(model, one_stack=True)
    likeliest = next_tokens if loaded.generates else likeliest_fillings
    found = [(tokenizer.token(i), i, p) for i, p in likeliest(loaded, tokenizer, text, top, temperature)]
    if json:
        print_json([{"token": token, "id": i, "probability": p} for token, i, p in found])
    else:
        print("\n".join(bars([(token, p) for token, _, p in found], 72)))
