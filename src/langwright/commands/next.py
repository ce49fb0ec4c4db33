"""langwright next: what a model expects to come."""

from pathlib import Path

from langwright.adaptation.folder import adapted, tokenizer_folder
from langwright.base.console import print_json
from langwright.base.errors import UserError
from langwright.commands.evaluate import check_vocabulary
from langwright.inference.generate import likeliest_fillings, next_tokens
from langwright.models.folder import OpenedFolder
from langwright.models.surgery.quantise import Kind
from langwright.text.tokenizer import load_tokenizer
from langwright.viewing.terminal import bars


def next_token(
    model: Path,
    text: str,
    top: int = 10,
    temperature: float = 1.0,
    adapter: Path | None = None,
    bits: Kind | None = None,
    ignore_field: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """The likeliest next tokens of a text with their probabilities, as a bar chart; or those for a mask in it.

    model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
    text: what comes before; for a masked model such as BERT, a text with its mask token, as in "It is [MASK]."
    top: how many tokens are shown.
    temperature: divides the logits first: below 1 sharpens the distribution, above 1 flattens it.
    adapter: an adapter folder to put on the model, as finetune leaves it.
    bits: quantise the linear layers to int8, int4, nf4 or fp4 while loading; a compressed folder needs no flag.
    ignore_field: a field of config.json to pass over although it is not understood.
    json: print the result as JSON.
    """
    if top < 1:
        raise UserError(f"--top {top}: must be at least 1")
    if not temperature > 0:
        raise UserError(f"--temperature {temperature}: must be above 0")
    loaded = adapted(OpenedFolder(model, ignore_field).require(one_stack=True).model(bits=bits), adapter, model)
    tokenizer = load_tokenizer(tokenizer_folder(model, adapter), base=model)
    check_vocabulary(loaded, tokenizer)
    if not loaded.generates:
        likeliest = likeliest_fillings(loaded, tokenizer, text, top, temperature)
    else:
        likeliest = next_tokens(loaded, tokenizer, text, top, temperature)
    found = [(tokenizer.token(i), i, p) for i, p in likeliest]
    if json:
        print_json([{"token": token, "id": i, "probability": p} for token, i, p in found])
    else:
        print("\n".join(bars([(token, p) for token, _, p in found], 72)))
