"""The special tokens of a tokenizer by their use, read from and written to the files that `transformers` uses."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from langwright.base.errors import UserError


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens as text; None where a tokenizer has none.

    Attributes:
        bos: begins a document.
        eos: ends a document.
        pad: fills a batch where there is no text.
        unk: stands for what the vocabulary cannot spell; byte-level tokenizers need none.
        cls: stands before a text that an encoder reads.
        sep: ends such a text, or separates a pair.
        mask: hides a token that is to be predicted.
    """

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    cls: str | None = None
    sep: str | None = None
    mask: str | None = None

    def config(self) -> dict[str, str]:
        """The tokens as `tokenizer_config.json` names them, without those that are None."""
        return {f"{kind}_token": token for kind, token in vars(self).items() if token is not None}


GPT2 = SpecialTokens(bos="<|endoftext|>", eos="<|endoftext|>")
BERT = SpecialTokens(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")
ROBERTA = SpecialTokens(bos="<s>", eos="</s>", pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>")


def usual_special_tokens(vocabulary: Collection[str]) -> SpecialTokens:
    """The special tokens of the convention whose tokens are all in a vocabulary."""
    conventions = (GPT2, BERT, ROBERTA, SpecialTokens())
    return next(usual for usual in conventions if all(token in vocabulary for token in usual.config().values()))


def read_special_tokens(config: Mapping[str, Any], where: str) -> SpecialTokens:
    """The special tokens in a `tokenizer_config.json` or `special_tokens_map.json`.

    Args:
        config: content of the file; a token is text or `{"content": text}`.
        where: the file, for the error.

    Raises:
        UserError: for a token in any other form.
    """
    found: dict[str, str | None] = {}
    for kind in vars(SpecialTokens()):
        token = config.get(f"{kind}_token")
        found[kind] = token.get("content") if isinstance(token, Mapping) else token
        if not isinstance(found[kind], str | None):
            raise UserError(f'{where}: "{kind}_token" must be a text or null, not {token!r}')
    return SpecialTokens(**found)
