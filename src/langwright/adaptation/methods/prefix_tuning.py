"""Prefix tuning (Li and Liang, 2021): learned keys and values before those of every text, in every layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from langwright.adaptation.method import Method
from langwright.adaptation.methods.virtual_tokens import VirtualTokenMethod, VirtualTokenModule
from langwright.adaptation.settings import Holds, Table, holds, one_of, setting
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.parts.attention import Attention
from langwright.parts.bias import Lowered
from langwright.parts.kernels import Stateless
from langwright.parts.state import Settings
from langwright.parts.virtual_tokens import VirtualTokens


@dataclass(frozen=True)
class PrefixTuning(VirtualTokenMethod):
    """Every layer attends to keys and values of its own before those of the text; nothing else changes.

    In an encoder-decoder it is the decoder that reads the prefix, as in PEFT.

    Args:
        tokens: how many virtual tokens stand before every text.
        projection: let a layer, tanh and a layer make the numbers of a narrower table, which trains more steadily.
        hidden: width of a projected prefix between its two layers.
        init: what they begin as: random numbers; zero, from which training begins as the model with attention to
            nothing; or "text:..." with words of your own, from which it begins as the model that has read them.
        text: the text that they begin as, repeated or cut to their number.
        ids: its tokens.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"
    peft_fields: ClassVar[Table] = {
        **holds(num_virtual_tokens="tokens", prefix_projection="projection", encoder_hidden_size="hidden"),
        "init_weights": Holds("init", words={"zero": "zero"}, write=lambda init: None),
        **dict.fromkeys((
            "num_layers", "num_attention_heads", "token_dim", "num_transformer_submodules", "modules_to_save"
        )),
    }  # fmt: skip

    tokens: int = setting(20, "size", "virtual_tokens")
    projection: bool = setting(False, option="projection")
    hidden: int = setting(512, "size", "encoder_width")
    init: str = setting("random", one_of("random", "zero", "text"), "prompt_init")
    text: str | None = None
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "text" and self.projection:
            raise UserError("a prefix that is projected has no table a text could be written into; leave one out")

    def made(self, model: Model) -> VirtualTokenModule:
        layers, heads, dim = _shape(model)
        width, numbers = heads * dim, 2 * layers * heads * dim
        table, encoder = torch.randn(self.tokens, width if self.projection else numbers), None
        if self.projection:
            encoder = nn.Sequential(nn.Linear(width, self.hidden), nn.Tanh(), nn.Linear(self.hidden, numbers))
        if self.init == "zero":
            for parameter in (table,) if encoder is None else encoder[2].parameters():
                nn.init.zeros_(parameter)
        elif self.init == "text" and self.ids:
            table = _numbers_of_text(model, torch.tensor(self.ids, device=model.device), self.tokens)
        # For an encoder-decoder PEFT writes the numbers out twice and gives each layer four parts in a row, of which
        # the first two count: layer i reads those of layer 2i, counted around; with an even number half lie idle.
        order = [2 * i % layers if model.encoders else i for i in range(layers)]
        return VirtualTokenModule(table, encoder, partial(_prefix, heads=heads, order=order))

    @classmethod
    def from_peft(cls, given: Fields, model: Model) -> Method:
        for name, value in cls().facts(model).items():
            if given.get(name) not in (None, value):
                raise UserError(f"{name} = {given[name]!r}, and this model has {value}")
        return super().from_peft(given, model)

    def facts(self, model: Model) -> Fields:
        layers, heads, dim = _shape(model)
        submodules = 2 if model.encoders else 1
        facts = {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * dim}
        return {**facts, "num_transformer_submodules": submodules}


def _prefix(rows: Tensor, heads: int, order: Sequence[int]) -> VirtualTokens:
    """The keys and values of each layer; order: which layer's numbers each layer reads."""
    parts = rows.view(len(rows), 2 * len(order), heads, -1)
    parts = parts.permute(1, 2, 0, 3)  # number, kv_heads, length, head_dim; 2i are keys, 2i + 1 values
    return VirtualTokens(len(rows), layers=[(parts[2 * i], parts[2 * i + 1]) for i in order])


def _shape(model: Model) -> tuple[int, int, int]:
    """Layers, heads and head_dim of the keys that a model remembers; UserError where layers differ."""
    attentions = [getattr(getattr(block, "attention", None), "fn", None) for block in model.body.blocks]
    sizes = {(a.kv_heads, a.head_dim) if isinstance(a, Attention) else (0, 0) for a in attentions}
    if len(sizes) > 1 or (0, 0) in sizes:
        raise UserError("a prefix needs layers of attention that are all alike, and this model has others")
    return len(attentions), *sizes.pop()


class _Recorder(Stateless):
    """A state that keeps the keys and values of one forward pass as they come."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Lowered, settings: Settings) -> Tensor:
        self.seen.append((k, v))
        return super().attend(q, k, v, bias, settings)


def _numbers_of_text(model: Model, ids: Tensor, tokens: int) -> Tensor:
    """The keys and values of a text, repeated or cut to so many tokens, as the file has them: [tokens, numbers]."""
    if model.encoders:
        raise UserError("the prefix of an encoder-decoder cannot begin as a text: its decoder reads none of its own")
    ids = ids.repeat(-(-tokens // len(ids)))[None, :tokens]
    recorder = _Recorder()
    training = model.training
    with torch.no_grad():
        model.eval().body(ids, state=recorder)
    model.train(training)
    parts = torch.stack([part[0] for pair in recorder.seen for part in pair])
    return parts.permute(2, 0, 1, 3).flatten(1).float()
