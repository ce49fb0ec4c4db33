"""langwright merge: a model and an adapter as one plain model folder."""

from pathlib import Path

import torch

from langwright.adaptation.folder import load_model, tokenizer_folder
from langwright.adaptation.merging import merge as merge_weights
from langwright.adaptation.merging import settle
from langwright.base.console import print_json, say
from langwright.base.errors import UserError
from langwright.base.files import folder_lock, read_object
from langwright.base.hub import model_folder
from langwright.models.folder import GENERATION, refuse_out, save_model
from langwright.models.surgery.quantise import Kind, dequantise, is_quantised
from langwright.models.weights import weights_checksum
from langwright.text.opening import load_tokenizer

PROBE = 64
"""Tokens on which the change of the logits is measured."""


def merge(
    model: Path,
    adapter: Path,
    out: Path,
    text: str | None = None,
    bits: Kind | None = None,
    ignore_field: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Work an adapter into the weights of its model, in float32, and write a plain model folder.

    Args:
        model: the folder of the model that the adapter was trained over, or its name on the Hub:
            hf:owner/name@revision.
        adapter: the adapter folder.
        out: the new model folder, in the model's own dtype, or in float32 where the model is quantised.
        text: what the change of the logits is measured on; tokens drawn at random unless given.
        bits: int8, int4, nf4 or fp4: merge into what the linear layers are quantised to, where the adapter was trained
            over that; a compressed folder needs no flag.
        ignore_field: a field of config.json to pass over although it is not understood.
        json: print the result as JSON.
    """
    model = model_folder(model)
    refuse_out(out)
    loaded = load_model(model, ignore_fields=ignore_field, adapter=adapter, bits=bits)
    if is_quantised(loaded):
        dequantise(loaded.float())
    # An adapter that was taught to talk has a tokenizer of its own, with its template and stop.
    home = tokenizer_folder(model, adapter)
    tokenizer = load_tokenizer(home, base=model)
    room = min(PROBE, loaded.context or PROBE)
    probe = torch.randint(loaded.vocabulary, (room,), generator=torch.Generator().manual_seed(0)).tolist()
    if text is not None and not (probe := tokenizer.encode(text)[:room]):
        raise UserError("--text is empty: nothing to measure on")
    change = merge_weights(loaded, ids=torch.tensor([probe]))
    settle(loaded)
    with folder_lock(out, "merging"):
        ends = read_object(home / GENERATION, "how texts end", optional=True)
        record = {"command": "merge", "base": weights_checksum(model), "adapter": weights_checksum(adapter)}
        save_model(loaded, tokenizer, out, record, generation=ends)
    if json:
        print_json({"out": str(out), "largest_logit_change": change, "tokens": len(probe)})
    else:
        say(f"wrote {out}; over {len(probe)} tokens no logit changed by more than {change:.2g}")
