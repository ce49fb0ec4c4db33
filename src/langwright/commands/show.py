"""langwright show: look inside a model."""

from pathlib import Path

import torch

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.commands.evaluate import check_vocabulary
from langwright.inference.generate import prompt_ids
from langwright.models.decoder import CausalLM
from langwright.models.folder import load_decoder
from langwright.parts.state import Taps
from langwright.text.tokenizer import Tokenizer, load_tokenizer
from langwright.viewing.report import Attention, Report, report


def show(
    model: Path,
    *,
    attention: str,
    layer: int | None = None,
    out: Path = Path("attention.html"),
    ignore_field: tuple[str, ...] = (),
) -> None:
    """Write the attention of one layer over a text as a self-contained HTML page.

    model: a model folder.
    attention: the text to look at.
    layer: which layer, from 0; the middle one unless given.
    out: the page.
    ignore_field: a field of config.json to pass over although it is not understood.
    """
    loaded, tokenizer = load_decoder(model, dtype=torch.float32, ignore_fields=ignore_field), load_tokenizer(model)
    check_vocabulary(loaded, tokenizer)
    figure = attention_over(loaded, tokenizer, attention, layer)
    write_atomic(out, report(Report(title=f"Attention of {model.name}", attention=figure, overline="Langwright")))
    say(f"wrote {out}")


def attention_over(model: CausalLM, tokenizer: Tokenizer, text: str, layer: int | None = None) -> Attention:
    """The attention weights of one layer over a text."""
    layers = len(model.body.blocks)
    number = layers // 2 if layer is None else layer
    if not 0 <= number < layers:
        raise UserError(f"--layer {layer}: the model has layers 0 to {layers - 1}")
    ids = prompt_ids(tokenizer, text)
    if len(ids) > model.context:
        raise UserError(f"a text of {len(ids)} tokens does not fit the model's context of {model.context} tokens")
    taps = Taps("attention")
    with torch.inference_mode():
        model.body(torch.tensor([ids], device=model.head.weight.device), taps=taps)
    weights = taps.get("attention")[number][0].float().cpu().numpy()
    return Attention(weights, [tokenizer.token(i) for i in ids], f"layer {number} of {layers}, counted from 0")
