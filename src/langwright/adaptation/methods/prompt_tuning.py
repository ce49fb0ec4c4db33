"""Prompt tuning (Lester et al., 2021): vectors before every text, each free to move while the model stays."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, attached
from langwright.adaptation.method import DEFAULT
from langwright.adaptation.methods.virtual_tokens import VirtualTokenMethod, VirtualTokenModule
from langwright.adaptation.settings import Holds, Table, holds, one_of, setting
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.parts.heads import LabelHead
from langwright.parts.virtual_tokens import VirtualTokens
from langwright.text.tokenizer import Tokenizer


class SoftPromptMethod(VirtualTokenMethod):
    """What prompt tuning and P-tuning share: the rows of the file are vectors of the model's width.

    PEFT keeps a second half for the decoder of an encoder-decoder, of which nothing is used (`submodules`). Files with
    it are read and written back; new ones are made without.
    """

    stack: ClassVar[str] = "encoder"
    peft_fields: ClassVar[Table] = {
        **holds(num_virtual_tokens="tokens", num_transformer_submodules="submodules"),
        **dict.fromkeys(("modules_to_save", "num_attention_heads", "num_layers", "token_dim")),
    }
    submodules: int

    @abstractmethod
    def table(self, like: Tensor, rows: int) -> tuple[Tensor, nn.Module | None]:
        """The numbers to begin with and what encodes them, given the model's token table."""

    def made(self, model: Model) -> VirtualTokenModule:
        count, stays = self.tokens, bool(model.encoders)
        table, encoder = self.table(model.body.embed.tokens, count * self.submodules)
        return VirtualTokenModule(table, encoder, lambda rows: VirtualTokens(count, rows[:count], stays=stays))

    def modules(self, model: Model) -> dict[str, AdapterModule]:
        if isinstance(model.head, LabelHead) and model.head.pooling == "first":
            raise UserError("this head reads the first token, where PEFT would have a virtual one; take prefix tuning")
        return super().modules(model)

    def facts(self, model: Model) -> Fields:
        return {"num_layers": len(model.body.blocks), "token_dim": model.body.embed.tokens.shape[1]}


@dataclass(frozen=True)
class PromptTuning(SoftPromptMethod):
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

    tokens: int = setting(20, "size", "virtual_tokens")
    init: str = setting("vocabulary", one_of("random", "vocabulary", "text"), "prompt_init")
    text: str | None = None
    ids: tuple[int, ...] = ()
    submodules: int = setting(1, "size")

    def table(self, like: Tensor, rows: int) -> tuple[Tensor, nn.Module | None]:
        if self.init == "vocabulary":
            ids = torch.randint(like.shape[0], (rows,))
        elif self.ids:
            ids = torch.tensor(self.ids).repeat(-(-rows // len(self.ids)))[:rows]
        else:
            return torch.randn(rows, like.shape[1]), None
        return like.detach()[ids.to(like.device)].float(), None


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
    adapter = attached(model).adapter(name)
    if not isinstance(adapter.settings, SoftPromptMethod):
        raise UserError(f'the adapter "{name}" has no soft prompt: its virtual tokens, if any, are like no word')
    (prompt,) = adapter.modules.values()
    with torch.no_grad():
        vectors, table = prompt.virtual_tokens().vectors, model.body.embed.tokens[: tokenizer.vocab_size]
        assert vectors is not None
        cosines = F.normalize(vectors.float(), dim=-1) @ F.normalize(table.float(), dim=-1).T
        near = cosines.topk(min(top, len(table)))
    rows = zip(near.indices.tolist(), near.values.tolist(), strict=True)
    return [[(tokenizer.token(i), cosine) for i, cosine in zip(*row, strict=True)] for row in rows]
