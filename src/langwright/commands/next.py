"""langwright next: what a model expects to come."""

from pathlib import Path

from langwright.base.errors import UserError
from langwright.commands.evaluate import check_vocabulary
from langwright.commands.results import print_json
from langwright.inference.generate import next_tokens
from langwright.models.folder import load_decoder
from langwright.text.tokenizer import load_tokenizer
from langwright.viewing.terminal import bars


def next_token(
    model: Path,
    text: str,
    top: int = 10,
    temperature: float = 1.0,
    ignore_field: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """The likeliest next tokens of a text with their probabilities, as a bar chart.

    model: a model folder.
    text: what comes before.
    top: how many tokens are shown.
    temperature: divides the logits first: below 1 sharpens the distribution, above 1 flattens it.
    ignore_field: a field of config.json to pass over although it is not understood.
    json: print the result as JSON.
    """
    if top < 1:
        raise UserError(f"--top {top}: must be at least 1")
    if temperature <= 0:
        raise UserError(f"--temperature {temperature}: must be above 0")
    loaded, tokenizer = load_decoder(model, ignore_fields=ignore_field), load_tokenizer(model)
    check_vocabulary(loaded, tokenizer)
    found = [(tokenizer.token(i), i, p) for i, p in next_tokens(loaded, tokenizer, text, top, temperature)]
    if json:
        print_json([{"token": token, "id": i, "probability": p} for token, i, p in found])
    else:
        print("\n".join(bars([(token, p) for token, _, p in found], 72)))
