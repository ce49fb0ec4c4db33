"""Which special token plays which part: read from and written to the files that `transformers` uses."""

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
class Roles:
    """The special tokens by what they do, as their text; None where a tokenizer has none.

    bos: begins a document.
    eos: ends a document.
    pad: fills a batch where there is no text.
    unknown: stands for what the vocabulary cannot say; byte-level tokenizers need none.
    cls: stands before a text that is read as a whole. sep: ends it, or parts a pair.
    mask: hides a token that is to be guessed.
    """

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unknown: str | None = None
    cls: str | None = None
    sep: str | None = None
    mask: str | None = None

    def config(self) -> dict[str, str]:
        """The roles as `tokenizer_config.json` names them, without those that are not played."""
        return {key: token for role, key in _KEYS.items() if (token := getattr(self, role)) is not None}


def without_roles(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's configuration without its special tokens, and without whether bos begins a text."""
    return {key: value for key, value in config.items() if key not in (*_KEYS.values(), "add_bos_token")}


def read_roles(config: Mapping[str, Any], where: str) -> Roles:
    """The roles in a `tokenizer_config.json` or `special_tokens_map.json`; a token is text or `{"content": text}`.

    where: the file, for the error.
    Raises UserError for a token in any other form.
    """
    return Roles(**{role: _content(config.get(key), key, where) for role, key in _KEYS.items()})


def _content(token: Any, key: str, where: str) -> str | None:
    if isinstance(token, Mapping):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise UserError(f'{where}: "{key}" must be a text or null, not {token!r}')
    return token
