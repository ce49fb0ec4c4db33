"""langwright show: look inside a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from langwright.adaptation.attached import attached
from langwright.adaptation.folder import adapted, tokenizer_folder
from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.commands.evaluate import check_vocabulary
from langwright.inference.generate import check_length, complete, prompt_ids, source_ids
from langwright.inference.sampling import Sampling
from langwright.models.folder import load_model
from langwright.models.model import Model
from langwright.parts.bias import Bias, Places
from langwright.parts.state import Taps
from langwright.text.tokenizer import Tokenizer, load_tokenizer
from langwright.viewing.attention import CAUTIONS, CROSS_CAUTIONS, attention_figure
from langwright.viewing.attention_heads import LayerHeads, heads_figure
from langwright.viewing.page import Section, page
from langwright.viewing.report import Attention

WRITTEN = 64
"""The most tokens that a decoder writes for itself to be looked at: more would be a page that no one can read."""


@dataclass(frozen=True)
class Reading:
    """The attention of one kind in every layer of a stack, over rows of queries and columns of keys.

    who: whose layers they are, in words. keys: None where queries are their own keys.
    """

    who: str
    layers: Sequence[LayerHeads]
    queries: Sequence[str]
    keys: Sequence[str] | None = None


def show(
    model: Path,
    *,
    attention: str,
    target: str | None = None,
    layer: int | None = None,
    out: Path = Path("attention.html"),
    adapter: Path | None = None,
    ignore_field: tuple[str, ...] = (),
) -> None:
    """Write the attention over a text as a self-contained HTML page: all layers at a glance, and one in full.

    model: a model folder, or a model of the Hub: hf:owner/name or hf:owner/name@revision.
    attention: the text to look at; of an encoder-decoder, what its encoder reads.
    target: what the decoder of an encoder-decoder reads; what it writes itself, greedily, unless given.
    layer: which layer in full, from 0; the middle one unless given.
    out: the page.
    adapter: an adapter folder to put on the model, as finetune leaves it.
    ignore_field: a field of config.json to pass over although it is not understood.
    """
    loaded = adapted(load_model(model, dtype=torch.float32, ignore_fields=ignore_field), adapter, model)
    if attached(loaded).tokens:
        raise UserError(f"--adapter {adapter}: its virtual tokens have no names to show; leave it out")
    tokenizer = load_tokenizer(tokenizer_folder(model, adapter), base=model)
    check_vocabulary(loaded, tokenizer)
    lead = ""
    if loaded.encoders:
        written, lead = _target_ids(loaded, tokenizer, attention, target)
        sections = _two_stacks(loaded, tokenizer, source_ids(loaded, tokenizer, attention), written, layer)
    elif target is not None:
        raise UserError(f"--target: a {loaded.family} model reads one text and has no target; leave it out")
    else:
        sections = _one_stack(loaded, tokenizer, attention, layer)
    write_atomic(out, page(f"Attention of {_title(model)}", sections, lead, overline="Langwright"))
    say(f"wrote {out}")


def _title(model: Path) -> str:
    """The folder's own name, or the name on the Hub."""
    return model.resolve().name if model.exists() else str(model)


def attention_over(model: Model, tokenizer: Tokenizer, text: str, layer: int | None = None) -> Attention:
    """The attention weights of one layer over a text."""
    return _in_full(_read(model, tokenizer, text), layer)


def _in_full(reading: Reading, layer: int | None) -> Attention:
    number = _chosen(reading, layer)
    if number is None:
        raise UserError(f"--layer {layer}: the model has layers 0 to {len(reading.layers) - 1}")
    return Attention(reading.layers[number].weights, list(reading.queries), _place(reading, number))


def _one_stack(model: Model, tokenizer: Tokenizer, text: str, layer: int | None) -> list[Section]:
    reading = _read(model, tokenizer, text)
    one = _in_full(reading, layer)
    return [
        Section("all-heads", "All heads", heads_figure(reading.layers, reading.queries), _size(reading)),
        Section("one-layer", "One layer", attention_figure(one.weights, one.tokens), one.about),
    ]


def _two_stacks(
    model: Model, tokenizer: Tokenizer, source: Sequence[int], target: Sequence[int], layer: int | None
) -> list[Section]:
    """Cross-attention, and the self-attention of decoder and encoder: each at a glance and one layer in full."""
    encoder, decoder = Taps("attention"), Taps("attention", "cross_attention")
    with torch.no_grad():
        memory = model.encode(torch.tensor([source]), taps=encoder)
        model.body(torch.tensor([target]), taps=decoder, memory=memory)
    read, written = ([tokenizer.token(i) for i in ids] for ids in (source, target))
    crossed = [LayerHeads(weights) for weights in _weights(decoder, "cross_attention")]
    kinds = [
        ("cross", "Cross-attention", Reading("the decoder", crossed, written, read), CROSS_CAUTIONS),
        ("decoder", "Decoder", Reading("the decoder", _layers(decoder, model.body.biases), written), CAUTIONS),
        ("encoder", "Encoder", Reading("the encoder", _layers(encoder, model.encoder.biases), read), ()),
    ]
    numbers = [_chosen(reading, layer) for _, _, reading, _ in kinds]
    if numbers.count(None) == len(kinds):
        ranges = [f"{reading.who} has layers 0 to {len(reading.layers) - 1}" for _, _, reading, _ in kinds[1:]]
        raise UserError(f"--layer {layer}: {', '.join(ranges)}")
    sections = []
    for (name, title, reading, cautions), number in zip(kinds, numbers, strict=True):
        size = _size(reading) if number is not None else f"{_size(reading)} There is no layer {layer}."
        glance = heads_figure(reading.layers, reading.queries, reading.keys)
        sections.append(Section(name, f"{title}: all heads", glance, size))
        if number is not None:
            weights = reading.layers[number].weights
            full = attention_figure(weights, reading.queries, reading.keys, name, cautions)
            sections.append(Section(f"{name}-layer", f"{title}: one layer", full, _place(reading, number)))
    return sections


def _target_ids(model: Model, tokenizer: Tokenizer, text: str, target: str | None) -> tuple[list[int], str]:
    """What the decoder is given, and in words what both stacks read."""
    begin = [model.frame.start]
    if target is None:
        room = WRITTEN if model.context is None else min(WRITTEN, model.context - 1)
        (written,) = complete(model, tokenizer, [text], Sampling(temperature=0), room)
        ids = begin + (written.ids[:-1] if written.reason == "end" else written.ids)
        cut = f", cut off after {room} tokens" if len(written.ids) == room else ""
        whose, shown = f"which the model wrote itself, greedily{cut}", written.text
        say(f'no --target: the decoder reads "{shown}", {whose}')
    else:
        first = [] if model.frame.first is None else [model.frame.first]
        ids = begin + first + tokenizer.encode(target)
        whose, shown = "which was given", target
    return check_length(model, ids, "target"), f"The encoder reads “{text}”, the decoder “{shown}”, {whose}."


def _read(model: Model, tokenizer: Tokenizer, text: str) -> Reading:
    ids = prompt_ids(tokenizer, text) if model.generates else tokenizer.frame(text, named=True)[0]
    check_length(model, ids)
    taps = Taps("attention")
    with torch.no_grad():
        model.body(torch.tensor([ids], device=model.device), taps=taps)
    return Reading("the model", _layers(taps, model.body.biases), [tokenizer.token(i) for i in ids])


def _layers(taps: Taps, biases: Sequence[Bias]) -> list[LayerHeads]:
    """The self-attention weights of every layer, and what its bias added to the scores."""
    weights = _weights(taps, "attention")
    positions = torch.arange(weights[0].shape[-1])[None]
    places = Places(positions, positions, gapless=False)
    layers = []
    for one, bias in zip(weights, biases, strict=True):
        scores = bias.lower(places).additive(positions.shape[1], positions.shape[1], torch.zeros(())).scores
        assert scores is not None, "places with gaps are lowered to scores"
        added = scores[0].detach().masked_fill(scores[0] == torch.finfo(scores.dtype).min, -torch.inf)
        layers.append(LayerHeads(one, added.expand(-1, *one.shape[1:]).numpy()))
    return layers


def _weights(taps: Taps, kind: str) -> list[NDArray[np.float32]]:
    """Of each layer, [heads, queries, keys]."""
    return [weights[0].float().cpu().numpy() for weights in taps.get(kind)]


def _chosen(reading: Reading, layer: int | None) -> int | None:
    """The layer to show in full: the middle one unless given; None where there is no such layer."""
    number = len(reading.layers) // 2 if layer is None else layer
    return number if 0 <= number < len(reading.layers) else None


def _size(reading: Reading) -> str:
    heads = len(np.asarray(reading.layers[0].weights))
    return f"{len(reading.layers)} layers of {heads} heads, each over the whole text."


def _place(reading: Reading, number: int) -> str:
    return f"layer {number} of {len(reading.layers)}, counted from 0"
