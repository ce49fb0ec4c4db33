"""langwright show: look inside a model."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from langwright.adaptation.loading import adapted
from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import write_atomic
from langwright.commands.evaluate import check_vocabulary
from langwright.inference.generate import prompt_ids
from langwright.models.decoder import CausalLM
from langwright.models.encoder import Encoder
from langwright.models.folder import load_one_stack
from langwright.parts.bias import Places
from langwright.parts.state import Taps
from langwright.text.tokenizer import Tokenizer, load_tokenizer
from langwright.viewing.attention import attention_figure
from langwright.viewing.heads import LayerHeads, heads_figure
from langwright.viewing.page import Section, page
from langwright.viewing.report import Attention


def show(
    model: Path,
    *,
    attention: str,
    layer: int | None = None,
    out: Path = Path("attention.html"),
    adapter: Path | None = None,
    ignore_field: tuple[str, ...] = (),
) -> None:
    """Write the attention over a text as a self-contained HTML page: all layers at a glance, and one in full.

    model: a model folder.
    attention: the text to look at.
    layer: which layer in full, from 0; the middle one unless given.
    out: the page.
    adapter: an adapter folder to put on the model, as finetune leaves it.
    ignore_field: a field of config.json to pass over although it is not understood.
    """
    loaded = adapted(load_one_stack(model, dtype=torch.float32, ignore_fields=ignore_field), adapter, model)
    tokenizer = load_tokenizer(model)
    check_vocabulary(loaded, tokenizer)
    one = attention_over(loaded, tokenizer, attention, layer)
    every = heads_figure(all_heads(loaded, tokenizer, attention), one.tokens)
    layers, heads = len(loaded.body.blocks), len(np.asarray(one.weights))
    sections = [
        Section("all-heads", "All heads", every, f"{layers} layers of {heads} heads, each over the whole text."),
        Section("one-layer", "One layer", attention_figure(one.weights, one.tokens), one.about),
    ]
    write_atomic(out, page(f"Attention of {model.resolve().name}", sections, overline="Langwright"))
    say(f"wrote {out}")


def all_heads(model: CausalLM | Encoder, tokenizer: Tokenizer, text: str) -> list[LayerHeads]:
    """The attention weights of every layer over a text, and what its bias adds to the scores."""
    weights = _weights(model, _ids(model, tokenizer, text))
    positions = torch.arange(len(weights[0][0]))[None]
    places = Places(positions, positions, dense=False)
    added = []
    for bias in model.body.biases:
        scores = bias.lower(places).additive(positions.shape[1], positions.shape[1], torch.zeros(())).scores
        assert scores is not None, "places that are not dense are lowered to scores"
        added.append(scores[0].masked_fill(scores[0] == torch.finfo(scores.dtype).min, -torch.inf))
    return [
        LayerHeads(w.numpy(), b.detach().expand(-1, *w.shape[1:]).numpy()) for w, b in zip(weights, added, strict=True)
    ]


def attention_over(model: CausalLM | Encoder, tokenizer: Tokenizer, text: str, layer: int | None = None) -> Attention:
    """The attention weights of one layer over a text."""
    layers = len(model.body.blocks)
    number = layers // 2 if layer is None else layer
    if not 0 <= number < layers:
        raise UserError(f"--layer {layer}: the model has layers 0 to {layers - 1}")
    ids = _ids(model, tokenizer, text)
    weights = _weights(model, ids)[number].numpy()
    return Attention(weights, [tokenizer.token(i) for i in ids], f"layer {number} of {layers}, counted from 0")


def _ids(model: CausalLM | Encoder, tokenizer: Tokenizer, text: str) -> list[int]:
    ids = tokenizer.frame(text, named=True)[0] if isinstance(model, Encoder) else prompt_ids(tokenizer, text)
    if len(ids) > model.context:
        raise UserError(f"a text of {len(ids)} tokens does not fit the model's context of {model.context} tokens")
    return ids


def _weights(model: CausalLM | Encoder, ids: list[int]) -> list[Tensor]:
    """Of each layer, [heads, time, time]."""
    taps = Taps("attention")
    with torch.no_grad():
        model.body(torch.tensor([ids], device=model.body.embed.tokens.device), taps=taps)
    return [weights[0].float().cpu() for weights in taps.get("attention")]
