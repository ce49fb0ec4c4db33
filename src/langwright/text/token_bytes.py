"""The exact bytes that a token stands for, read from the decoder of a `tokenizer.json`."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langwright.base.errors import UserError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's visible character for each byte: printable Latin-1 is itself, the rest is moved up to U+0100 onwards."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTE_OF_CHARACTER = _byte_alphabet()
CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


@dataclass(frozen=True)
class Spelling:
    """How tokens spell bytes.

    Attributes:
        spell: the bytes of a token from its text in the vocabulary.
        starts_with_space: whether the first token of a text has a space in front that the text has not
            (SentencePiece, WordPiece).
        ends_with_space: whether the last token has one at its end (GPT-1).
        plain_added: whether added tokens are not spelt at all but are their own text (byte-level).
    """

    spell: Callable[[str], bytes]
    starts_with_space: bool = False
    ends_with_space: bool = False
    plain_added: bool = False


def read_spelling(decoder: Mapping[str, Any] | None, where: str) -> Spelling:
    """Understand the `decoder` of a `tokenizer.json`: byte-level, SentencePiece, WordPiece, or GPT-1's ends of words.

    The latter two do not keep the spaces of a text: a word has one in front (WordPiece) or at its end (GPT-1).
    where: the tokenizer's file, for the error. Raises UserError for any other decoder.
    """
    steps = list(_steps(decoder))
    kinds = [step["type"] for step in steps]
    match steps:
        case [{"type": "WordPiece", "prefix": str(inside)}]:
            return Spelling(lambda token: _spell_word_piece(token, inside), starts_with_space=True)
        case [{"type": "BPEDecoder", "suffix": str(end)}]:
            return Spelling(
                lambda token: (token.removesuffix(end) + " " * token.endswith(end)).encode(), ends_with_space=True
            )
    if kinds == ["ByteLevel"]:
        return Spelling(_spell_byte_level, plain_added=True)
    replacements: dict[str, str] = {}
    starts_with_space = False
    for step in steps:
        match step:
            case {"type": "Fuse" | "ByteFallback"}:
                pass
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                replacements[old] = new
            case {"type": "Metaspace", "replacement": str(old)}:
                replacements[old] = " "
                starts_with_space = step.get("prepend_scheme", "always") != "never"
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                starts_with_space = True
            case _:
                raise UserError(f"{where}: the decoder {step['type']} is not supported; use a byte-level tokenizer")
    return Spelling(_piece_speller(replacements, byte_fallback="ByteFallback" in kinds), starts_with_space)


def _steps(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] != "Sequence":
        yield decoder
        return
    for step in decoder["decoders"]:
        yield from _steps(step)


def _spell_byte_level(token: str) -> bytes:
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:  # a token added as plain text
        return token.encode()


def _spell_word_piece(token: str, inside: str) -> bytes:
    return (token.removeprefix(inside) if token.startswith(inside) else " " + token).encode()


def _piece_speller(replacements: Mapping[str, str], byte_fallback: bool) -> Callable[[str], bytes]:
    def spell(token: str) -> bytes:
        if byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in replacements.items():
            token = token.replace(old, new)
        return token.encode()

    return spell
