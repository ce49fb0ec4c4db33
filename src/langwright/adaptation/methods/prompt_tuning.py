"""Prompt tuning (Lester et al., 2021): vectors before every text, each free to move while the model stays."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, attached
from langwright.adaptation.method import DEFAULT
from langwright.adaptation.methods.virtual_tokens import (
    BeginsAsText,
    VirtualTokenMethod,
    VirtualTokenModule,
    standard_normal,
)
from langwright.adaptation.settings import SIZE, Holds, Table, one_of, setting
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.parts.heads import SequenceHead
from langwright.parts.virtual_tokens import VirtualTokens
from langwright.text.tokenizer import Tokenizer


class SoftPrompt(VirtualTokenModule):
    """Vectors that are embedded before those of the tokens.

    Args:
        table: the vectors, or what the encoder makes them of.
        encoder: makes vectors of the table, if it is not None.
        length: rows that are used, from the first.
        stays: as in `VirtualTokens`.
    """

    def __init__(self, table: Tensor, encoder: nn.Module | None, length: int, stays: bool):
        super().__init__(table, encoder)
        self.length, self.stays = length, stays

    def virtual_tokens(self) -> VirtualTokens:
        return VirtualTokens(self.length, self.rows()[: self.length], stays=self.stays)


class SoftPromptMethod(VirtualTokenMethod):
    """What prompt tuning and P-tuning share: the rows of the file are vectors of the model's width.

    PEFT keeps a second half for the decoder of an encoder-decoder, of which nothing is used (`submodules`). Files with
    it are read and written back; new ones are made without.
    """

    stack: ClassVar[str] = "encoder"
    peft_fields: ClassVar[Table] = {
        "num_virtual_tokens": Holds("tokens"),
        "num_transformer_submodules": Holds("submodules"),
        **dict.fromkeys(("modules_to_save", "num_attention_heads", "num_layers", "token_dim")),
    }
    submodules: int

    @abstractmethod
    def table(self, like: Tensor, rows: int) -> tuple[Tensor, nn.Module | None]:
        """The numbers to begin with and what encodes them, given the model's token table."""

    def made(self, model: Model) -> SoftPrompt:
        table, encoder = self.table(model.body.embed.tokens, self.tokens * self.submodules)
        return SoftPrompt(table, encoder, self.tokens, stays=bool(model.encoders))

    def modules(self, model: Model) -> dict[str, AdapterModule]:
        if isinstance(model.head, SequenceHead) and model.head.pooling == "first":
            raise UserError(
                "this head reads the first token of a text, where PEFT would have a virtual one; take prefix tuning"
            )
        return super().modules(model)

    def facts(self, model: Model) -> Fields:
        width = model.body.embed.tokens.shape[1]
        return {"num_attention_heads": None, "num_layers": len(model.body.blocks), "token_dim": width}


@dataclass(frozen=True)
class PromptTuning(SoftPromptMethod, BeginsAsText):
    """A table of vectors before every text.

    Args:
        tokens: how many virtual tokens stand before every text.
        init: what they begin as: random numbers, words drawn from the vocabulary, or "text:..." with words of your own.
        text: the text that they begin as, repeated or cut to their number.
        ids: its tokens.
        submodules: parts of the table, of which the first is used.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"
    peft_fields: ClassVar[Table] = {
        **SoftPromptMethod.peft_fields,
        # PEFT reads a text again when the adapter is loaded, and wants a tokenizer for it: what is loaded replaces it.
        "prompt_tuning_init": Holds(
            "init",
            missing="random",
            words={"RANDOM": "random", "SAMPLE_VOCAB": "vocabulary", "TEXT": "random"},
            write=lambda text: "RANDOM",
        ),
        **dict.fromkeys(("prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path")),
    }

    tokens: int = setting(20, SIZE, "virtual_tokens")
    init: str = setting("vocabulary", one_of("random", "vocabulary", "text"), "prompt_init")
    text: str | None = None
    ids: tuple[int, ...] = ()
    submodules: int = setting(1, SIZE)

    def table(self, like: Tensor, rows: int) -> tuple[Tensor, nn.Module | None]:
        if self.init == "random" or like.is_meta or (self.init == "text" and not self.ids):
            return standard_normal(like, rows, like.shape[1]), None
        if self.init == "vocabulary":
            ids = torch.randint(like.shape[0], (rows,))
        else:
            ids = torch.tensor(self.ids).repeat(-(-rows // len(self.ids)))[:rows]
        return like.detach()[ids.to(like.device)].float(), None

    def facts(self, model: Model) -> Fields:
        return super().facts(model) | {"prompt_tuning_init_text": None, "tokenizer_name_or_path": None}


def nearest_words(
    model: Model, tokenizer: Tokenizer, name: str = DEFAULT, top: int = 3
) -> list[list[tuple[str, float]]]:
    """For each virtual token the words whose vectors are nearest by cosine, and the cosines, nearest first.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        name: an adapter of the model.
        top: how many words.

    Raises:
        UserError: for an adapter whose virtual tokens are no vectors of the model's width.
    """
    adapter = attached(model).adapters.get(name)
    prompt = next(iter(adapter.modules.values()), None) if adapter is not None else None
    if not isinstance(prompt, SoftPrompt):
        raise UserError(f'the adapter "{name}" has no soft prompt: its virtual tokens, if any, are like no word')
    with torch.no_grad():
        table = model.body.embed.tokens.float()[: tokenizer.vocab_size]
        rows = prompt.rows()[: prompt.length].float()
        cosines = nn.functional.normalize(rows, dim=-1) @ nn.functional.normalize(table, dim=-1).T
        found = cosines.topk(min(top, cosines.shape[1]))
    return [
        [(tokenizer.token(int(i)), float(c)) for i, c in zip(ids, values, strict=True)]
        for ids, values in zip(found.indices, found.values, strict=True)
    ]
