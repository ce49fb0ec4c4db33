"""The special tokens of a tokenizer by their use, read from and written to the files that `transformers` uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langwright.base.errors import UserError

END_OF_TEXT = "<|endoftext|>"

_KEYS = {
    "bos": "bos_token", "eos": "eos_token", "pad": "pad_token", "unknown": "unk_token",
    "cls": "cls_token", "sep": "sep_token", "mask": "mask_token",
}  # fmt: skip


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens as text; None where a tokenizer has none.

    Attributes:
        bos: begins a document.
        eos: ends a document.
        pad: fills a batch where there is no text.
        unknown: stands for what the vocabulary cannot spell; byte-level tokenizers need none.
        cls: stands before a text that an encoder reads.
        sep: ends such a text, or separates a pair.
        mask: hides a token that is to be predicted.
    """

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unknown: str | None = None
    cls: str | None = None
    sep: str | None = None
    mask: str | None = None

    def config(self) -> dict[str, str]:
        """The tokens as `tokenizer_config.json` names them, without those that are None."""
        return {key: token for kind, key in _KEYS.items() if (token := getattr(self, kind)) is not None}


def without_special_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's configuration without its special tokens, and without whether bos begins a text."""
    return {key: value for key, value in config.items() if key not in (*_KEYS.values(), "add_bos_token")}


def read_special_tokens(config: Mapping[str, Any], where: str) -> SpecialTokens:
    """The special tokens in a `tokenizer_config.json` or `special_tokens_map.json`.

    Args:
        config: content of the file; a token is text or `{"content": text}`.
        where: the file, for the error.

    Raises:
        UserError: for a token in any other form.
    """
    return SpecialTokens(**{kind: _content(config.get(key), key, where) for kind, key in _KEYS.items()})


def _content(token: Any, key: str, where: str) -> str | None:
    if isinstance(token, Mapping):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise UserError(f'{where}: "{key}" must be a text or null, not {token!r}')
    return token
