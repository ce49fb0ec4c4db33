"""Soft prompts: prompt tuning (Lester et al., 2021) and P-tuning (Liu et al., 2021).

Virtual tokens stand before every text: vectors that no word has, learned while the model stays as it is.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from langwright.adaptation.leads import Leading, Virtual
from langwright.adaptation.live import live
from langwright.adaptation.method import DEFAULT, SettingError, check_size, refuse_unknown
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.parts.heads import SequenceHead
from langwright.parts.stack import Stack
from langwright.parts.virtual_tokens import VirtualTokens
from langwright.text.tokenizer import Tokenizer


class Prompt(Virtual):
    """Vectors embedded before those of the tokens. stays: as in `VirtualTokens`. length: rows used, from the first."""

    def __init__(self, table: Tensor, encoder: nn.Module | None, length: int, stays: bool):
        super().__init__(table, encoder)
        self.length, self.stays = length, stays

    def forward(self) -> VirtualTokens:
        return VirtualTokens(self.length, self.rows()[: self.length], stays=self.stays)


class Prompting(Leading):
    """What both methods share: the rows of the file are vectors of the model's width."""

    submodules: int

    def _check_submodules(self) -> None:
        check_size("submodules", self.submodules, "submodules")

    def _stack(self, model: Model) -> Stack:
        return next(iter(model.stacks.values()))

    @abstractmethod
    def _table(self, table: Tensor, rows: int) -> tuple[Tensor, nn.Module | None]:
        """The numbers to begin with and what encodes them, given the model's token table."""

    def _virtual(self, model: Model) -> Virtual:
        table, encoder = self._table(model.body.embed.tokens, self.tokens * self.submodules)
        return Prompt(table, encoder, self.tokens, stays=bool(model.encoders))

    def _add(self, model: Model, name: str) -> Iterable[nn.Parameter]:
        if isinstance(model.head, SequenceHead) and model.head.pooling == "first":
            raise UserError(
                "this head reads the first token of a text, where PEFT would have a virtual one; take prefix tuning"
            )
        return self._place(model, name)

    def to_peft(self, model: Model) -> Fields:
        return {
            "num_attention_heads": None,
            "num_layers": len(model.body.blocks),
            "num_transformer_submodules": self.submodules,
            "num_virtual_tokens": self.tokens,
            "token_dim": model.body.embed.tokens.shape[1],
        } | self._own_fields(model)

    @abstractmethod
    def _own_fields(self, model: Model) -> Fields: ...


@dataclass(frozen=True)
class PromptTuning(Prompting):
    """A table of vectors, each free to move (Lester et al., 2021).

    tokens: how many. init: what they begin as: numbers from N(0, 1), vectors of words drawn from the vocabulary, or
    those of a text. text: that text; ids: its tokens, repeated or cut to `tokens` (see `begin_with`).
    submodules: PEFT keeps a second half for the decoder of an encoder-decoder, of which nothing is used; files with
    it are read and written back, new ones are made without.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"

    tokens: int = 20
    init: Literal["random", "vocabulary", "text"] = "vocabulary"
    text: str | None = None
    ids: tuple[int, ...] = ()
    submodules: int = 1

    def __post_init__(self) -> None:
        self._check_tokens()
        if (self.init == "text") != (self.text is not None):
            raise UserError("a prompt begins as a text when a text is given, and only then")
        self._check_submodules()

    def begin_with(self, tokenizer: Tokenizer) -> "PromptTuning":
        """The same, with the tokens of the text that it begins with."""
        return replace(self, ids=text_ids(tokenizer, self.text)) if self.text is not None else self

    def _table(self, table: Tensor, rows: int) -> tuple[Tensor, nn.Module | None]:
        if self.init == "random" or table.is_meta or (self.init == "text" and not self.ids):
            return standard_normal(table, rows, table.shape[1]), None
        if self.init == "vocabulary":
            ids = torch.randint(table.shape[0], (rows,))
        else:
            ids = torch.tensor(self.ids).repeat(-(-rows // len(self.ids)))[:rows]
        return table.detach()[ids.to(table.device)].float(), None

    def _own_fields(self, model: Model) -> Fields:
        names = {"random": "RANDOM", "vocabulary": "SAMPLE_VOCAB", "text": "RANDOM"}
        # PEFT reads a text again when the adapter is loaded, and wants a tokenizer for it: what is loaded replaces it
        return {"prompt_tuning_init": names[self.init], "prompt_tuning_init_text": None, "tokenizer_name_or_path": None}

    @classmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "PromptTuning":
        given = refuse_unknown(fields, HONOURED, {}, (*INERT, *_TEXT), where)
        return cls(token_count(given, where), init="random", submodules=_submodules(given, model))


@dataclass(frozen=True)
class PTuning(Prompting):
    """Vectors that an encoder makes of a table (Liu et al., 2021); once trained, its output is all that is needed.

    tokens: how many. encoder: "mlp", three linear layers with ReLU, or "lstm", read in both directions and followed
    by two layers. hidden: its width, the model's unless given. layers: of the LSTM. dropout: between those.
    submodules: as in `PromptTuning`.
    """

    peft_type: ClassVar[str] = "P_TUNING"

    tokens: int = 20
    encoder: Literal["mlp", "lstm"] = "mlp"
    hidden: int | None = None
    layers: int = 2
    dropout: float = 0.0
    submodules: int = 1

    def __post_init__(self) -> None:
        self._check_tokens()
        self._check_submodules()
        if self.hidden is not None:
            check_size("hidden", self.hidden, "--encoder-width")
        check_size("layers", self.layers, "layers")
        if not 0 <= self.dropout < 1:
            raise SettingError("dropout", self.dropout, "at least 0 and below 1", "dropout")

    def _table(self, table: Tensor, rows: int) -> tuple[Tensor, nn.Module | None]:
        dim = table.shape[1]
        hidden = self.hidden or dim
        with torch.device("meta" if table.is_meta else "cpu"):
            made = mlp(dim, hidden) if self.encoder == "mlp" else LSTM(dim, hidden, self.layers, self.dropout)
        return standard_normal(table, rows, dim), made

    def _own_fields(self, model: Model) -> Fields:
        return {
            "encoder_dropout": self.dropout,
            "encoder_hidden_size": self.hidden or model.body.embed.tokens.shape[1],
            "encoder_num_layers": self.layers,
            "encoder_reparameterization_type": self.encoder.upper(),
        }

    @classmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "PTuning":
        given = refuse_unknown(fields, (*HONOURED, *_ENCODER), {}, INERT, where)
        encoder = given.get("encoder_reparameterization_type", "MLP")
        if encoder not in ("MLP", "LSTM"):
            raise UserError(f"{where}: encoder_reparameterization_type = {encoder!r} is neither MLP nor LSTM")
        return cls(
            token_count(given, where),
            encoder="lstm" if encoder == "LSTM" else "mlp",
            hidden=given.get("encoder_hidden_size"),
            layers=given.get("encoder_num_layers", 2),
            dropout=given.get("encoder_dropout", 0.0),
            submodules=_submodules(given, model),
        )


def mlp(dim: int, hidden: int) -> nn.Module:
    """Three linear layers with ReLU between."""
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim)
    )


class LSTM(nn.Module):
    """An LSTM that reads the virtual tokens in both directions, and two linear layers."""

    def __init__(self, dim: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden, layers, dropout=dropout, bidirectional=True, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, dim))

    def forward(self, table: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        made: Tensor = self.mlp(self.lstm(table)[0])
        return made


def nearest_words(
    model: Model, tokenizer: Tokenizer, name: str = DEFAULT, top: int = 3
) -> list[list[tuple[str, float]]]:
    """For each virtual token the words whose vectors are nearest by cosine, and the cosines, nearest first.

    UserError for an adapter whose virtual tokens are no vectors of the model's width.
    """
    method = live(model).methods.get(name)
    if not isinstance(method, Prompting):
        raise UserError(f'the adapter "{name}" has no soft prompt: its virtual tokens, if any, are like no word')
    with torch.no_grad():
        lead = method.virtual(model, name)()
        assert lead.vectors is not None
        table = model.body.embed.tokens.float()[: tokenizer.vocab_size]
        cosines = nn.functional.normalize(lead.vectors.float(), dim=-1) @ nn.functional.normalize(table, dim=-1).T
        found = cosines.topk(min(top, cosines.shape[1]))
    return [
        [(tokenizer.token(int(i)), float(c)) for i, c in zip(ids, values, strict=True)]
        for ids, values in zip(found.indices, found.values, strict=True)
    ]


def text_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The tokens of a text that virtual tokens begin as; UserError for one that is empty."""
    ids: Sequence[int] = tokenizer.encode(text)
    if not ids:
        raise UserError("--prompt-init text: the text is empty")
    return tuple(ids)


def standard_normal(like: Tensor, *shape: int) -> Tensor:
    """Numbers from N(0, 1), the same on every device."""
    return torch.empty(shape, device="meta") if like.is_meta else torch.randn(shape)


def token_count(given: Mapping[str, Any], where: str) -> int:
    """How many virtual tokens an adapter_config.json tells of."""
    if "num_virtual_tokens" not in given:
        raise UserError(f"{where}: num_virtual_tokens is missing")
    return int(given["num_virtual_tokens"])


def _submodules(given: Mapping[str, Any], model: Model) -> int:
    usual = len(model.stacks)
    return int(given.get("num_transformer_submodules", usual))


HONOURED = ("num_transformer_submodules", "num_virtual_tokens")
INERT = ("modules_to_save", "num_attention_heads", "num_layers", "token_dim")
_TEXT = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path")
_ENCODER = ("encoder_dropout", "encoder_hidden_size", "encoder_num_layers", "encoder_reparameterization_type")
