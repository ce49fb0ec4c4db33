"""The exact bytes that each token of a vocabulary adds to a text."""

import re
from dataclasses import dataclass
from itertools import chain

import tokenizers

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BETWEEN = "\ufdd2"
"""A noncharacter of Unicode, which no token holds."""


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
        table: the bytes of each token by its id; none for a special token.
        starts_with_space: whether the first token of a text has a space in front that the text has not
            (SentencePiece, WordPiece).
        ends_with_space: whether the last token has one at its end (GPT-1).
    """

    table: list[bytes]
    starts_with_space: bool = False
    ends_with_space: bool = False


def read_spelling(backend: tokenizers.Tokenizer) -> Spelling:
    """What the tokens of a vocabulary become inside a text, where others stand before and after them.

    WordPiece and GPT-1 do not keep the spaces of a text: a word has one in front, or at its end.
    """
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    tokens = [token for token in vocabulary if not added.get(token)]
    decoder, starts, ends = backend.decoder, False, False
    if decoder is None:
        spelt = {token: token.encode() for token in tokens}
    elif b"ByteLevel" in decoder.__getstate__():
        spelt = {token: token.encode() if token in added else _bytes_of(token) for token in tokens}
    else:
        byte = BYTE_TOKEN if b"ByteFallback" in decoder.__getstate__() else re.compile("(?!)")
        spelt = {token: bytes.fromhex(match[1]) for token in tokens if (match := byte.fullmatch(token))}
        others = [token for token in tokens if token not in spelt]
        whole = decoder.decode([_BETWEEN, _BETWEEN, *chain.from_iterable((token, _BETWEEN) for token in others)])
        _, tail, *parts, _ = whole.split(_BETWEEN)
        texts = dict(zip(others, (part.removesuffix(tail) for part in parts), strict=True))
        first = next((token for token, text in texts.items() if text[:1] == " "), None)
        last = next((token for token, text in texts.items() if text[:1] != " " == text[-1:]), None)
        starts = first is not None and decoder.decode([first]) != texts[first]
        ends = last is not None and decoder.decode([last]) != texts[last]
        spelt |= {token: text.encode() for token, text in texts.items()}
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, data in spelt.items():
        table[vocabulary[token]] = data
    return Spelling(table, starts, ends)


def _bytes_of(token: str) -> bytes:
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:  # a token added as plain text
        return token.encode()
