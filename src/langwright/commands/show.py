"""langwright show: look inside a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langwright.adaptation.attached import attached
from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.inference.generate import complete, tell_errors
from langwright.inference.prompts import check_length, prompt_ids, source_ids
from langwright.inference.sampling import Sampling
from langwright.models.model import Model
from langwright.parts.bias import Bias, Places
from langwright.parts.state import Taps
from langwright.pipelines.opening import Opening
from langwright.text.tokenizer import Tokenizer
from langwright.viewing.attention import CAUTIONS, CROSS_CAUTIONS, LayerHeads, attention_figure, heads_figure
from langwright.viewing.page import Section, page

WRITTEN = 64
"""The most tokens that a decoder writes for itself to be looked at: more would be a page that no one can read."""


class Reading(NamedTuple):
    """The attention of one kind in every layer of a stack, over rows of queries and columns of keys.

    Args:
        name: its anchor in a page.
        title: its heading.
        who: whose layers they are, in words.
        layers: from the first.
        queries: tokens.
        keys: tokens; None where queries are their own keys.
        cautions: sentences below the page.
    """

    name: str
    title: str
    who: str
    layers: Sequence[LayerHeads]
    queries: Sequence[str]
    keys: Sequence[str] | None = None
    cautions: Sequence[str] = CAUTIONS


def show(
    model: Path,
    *,
    attention: str,
    target: str | None = None,
    layer: int | None = None,
    out: Path = Path("attention.html"),
    opening: Opening = Opening(),
) -> None:
    """Write the attention over a text as a self-contained HTML page: all layers at a glance, and one in full.

    Args:
        model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
        attention: the text to look at; of an encoder-decoder, what its encoder reads.
        target: what the decoder of an encoder-decoder reads; what it writes itself, greedily, unless given.
        layer: which layer in full, from 0; the middle one unless given.
        out: the page.
        opening: how the model is opened.
    """
    loaded, tokenizer = opening.open(model)
    if loaded.body.carries:
        raise UserError(f"--attention: a {loaded.family} model has no attention to show")
    if attached(loaded).tokens:
        raise UserError(f"--adapter {opening.adapter}: its virtual tokens have no names to show; leave it out")
    if target is not None and not loaded.encoders:
        raise UserError(f"--target: a {loaded.family} model reads one text and has no target; leave it out")
    lead = ""
    if loaded.encoders:
        written, lead = _target_ids(loaded, tokenizer, attention, target)
        readings = _two_stacks(loaded, tokenizer, source_ids(loaded, tokenizer, attention), written)
    else:
        readings = [read(loaded, tokenizer, attention)]
    title = model.resolve().name if model.exists() else model  # a name on the Hub
    write_atomic(out, page(f"Attention of {title}", sections(readings, layer), lead))
    say(f"wrote {out}")


def sections(readings: Sequence[Reading], layer: int | None = None) -> list[Section]:
    """Each reading at a glance and, where it has the layer, one layer in full: the middle one unless given."""
    numbers = [len(reading.layers) // 2 if layer is None else layer for reading in readings]
    found = [0 <= number < len(reading.layers) for number, reading in zip(numbers, readings, strict=True)]
    if not any(found):
        ranges = {f"{reading.who} has layers 0 to {len(reading.layers) - 1}": None for reading in readings}
        raise UserError(f"--layer {layer}: {', '.join(ranges)}")
    made = []
    for reading, number, there in zip(readings, numbers, found, strict=True):
        name, title, _, layers, queries, keys, cautions = reading
        size = f"{len(layers)} layers of {len(layers[0].weights)} heads, each over the whole text."
        size += "" if there else f" There is no layer {number}."
        made.append(Section(f"{name}-all", f"{title}: all heads", heads_figure(layers, queries, keys), size))
        if there:
            full = attention_figure(layers[number].weights, queries, keys, name, cautions)
            place = f"layer {number} of {len(layers)}, counted from 0"
            made.append(Section(f"{name}-layer", f"{title}: one layer", full, place))
    return made


def read(model: Model, tokenizer: Tokenizer, text: str) -> Reading:
    """The self-attention of a model of one stack over a text."""
    ids = prompt_ids(tokenizer, text) if model.generates else tokenizer.frame(text, named=True)[0]
    check_length(model, ids)
    taps = Taps("attention")
    with torch.no_grad():
        model.body(torch.tensor([ids], device=model.device), taps=taps)
    tokens = [tokenizer.token(i) for i in ids]
    return Reading("attention", "Self-attention", "the model", _layers(taps, model.body.biases), tokens)


def _two_stacks(model: Model, tokenizer: Tokenizer, source: Sequence[int], target: Sequence[int]) -> list[Reading]:
    """Cross-attention, and the self-attention of decoder and encoder."""
    encoder, decoder = Taps("attention"), Taps("attention", "cross_attention")
    with torch.no_grad():
        memory = model.encode(torch.tensor([source], device=model.device), taps=encoder)
        model.body(torch.tensor([target], device=model.device), taps=decoder, memory=memory)
    read, written = ([tokenizer.token(i) for i in ids] for ids in (source, target))
    crossed = [LayerHeads(_array(weights[0])) for weights in decoder.get("cross_attention")]
    readings = [
        Reading("cross", "Cross-attention", "the decoder", crossed, written, read, CROSS_CAUTIONS),
        Reading("decoder", "Decoder", "the decoder", _layers(decoder, model.body.biases), written),
        Reading("encoder", "Encoder", "the encoder", _layers(encoder, model.encoder.biases), read, cautions=()),
    ]
    return [reading for reading in readings if reading.layers]  # recurrent layers have none


def _layers(taps: Taps, biases: Sequence[Bias | None]) -> list[LayerHeads]:
    """The self-attention weights of every layer, and what its bias added to the scores."""
    layers = []
    attending = [bias for bias in biases if bias is not None]
    for weights, bias in zip(taps.get("attention"), attending, strict=True):
        time = weights.shape[-1]
        positions = torch.arange(time, device=weights.device)[None]
        places = Places(positions, positions, gapless=False)
        scores = bias.lower(places).additive(time, time, weights.new_zeros((), dtype=torch.float32)).scores
        assert scores is not None, "places with gaps are lowered to scores"
        added = scores[0].detach().masked_fill(scores[0] == torch.finfo(scores.dtype).min, -torch.inf)
        layers.append(LayerHeads(_array(weights[0]), _array(added.expand(-1, time, time))))
    return layers


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()


def _target_ids(model: Model, tokenizer: Tokenizer, text: str, target: str | None) -> tuple[list[int], str]:
    """What the decoder is given, and in words what both stacks read."""
    ids, whose, shown = [model.frame.start], "which was given", target
    if target is None:
        room = WRITTEN if model.context is None else min(WRITTEN, model.context - 1)
        (written,) = complete(model, tokenizer, [text], Sampling(temperature=0), room)
        tell_errors([written])
        ids += written.ids[:-1] if written.reason == "end" else written.ids
        cut = f", cut off after {room} tokens" if len(written.ids) == room else ""
        whose, shown = f"which the model wrote itself, greedily{cut}", written.text
        say(f'no --target: the decoder reads "{shown}", {whose}')
    else:
        ids += [] if model.frame.first is None else [model.frame.first]
        ids += tokenizer.encode(target)
    check_length(model, ids, "target")
    return ids, f"The encoder reads “{text}”, the decoder “{shown}”, {whose}."
