"""SentencePiece models (`tokenizer.model`, `spiece.model`): the file read, and the same ids from `tokenizers`.

The file is a protocol buffer, `ModelProto` of sentencepiece_model.proto (Kudo and Richardson, 2018); the little that is
needed of that format is read here.
"""

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from langwright.base.errors import UserError
from langwright.text.special_tokens import SpecialTokens

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of pieces."""
_UNIGRAM, _BPE = 1, 2
_PLACES = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
"""The fields of the trainer with the ids of special tokens, and what they are where a file does not say."""


class Piece(NamedTuple):
    """One entry of the vocabulary. kind: one of those above."""

    text: str
    score: float
    kind: int


def read_sentencepiece(path: Path, extra_ids: int = 0) -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    """A tokenizer with the ids of a SentencePiece file, and its special tokens.

    Where a model brings rules of normalisation, `tokenizers` takes a letter and its combining marks as one, which for
    a few rare letters gives other ids than SentencePiece's own code (3 of 5,135 odd texts with T5's model).
    extra_ids: how many sentinels `<extra_id_N>` follow the vocabulary, the highest first (T5).
    """
    try:
        model = _fields(path.read_bytes())
        trainer, normalizer = (_fields(b"".join(model[field])) for field in (2, 3))
        pieces = [_piece(_fields(data)) for data in model[1]]
        kind, suffixes = _last(trainer, 3, _UNIGRAM), _last(trainer, 24, 0)
        places = {name: _last(trainer, field, default) for name, (field, default) in _PLACES.items()}
        charsmap = _last(normalizer, 2, b"")  # compiled rules of normalisation
        prefix, trims, spaces = (_last(normalizer, field, 1) for field in (3, 4, 5))
    except (IndexError, ValueError, TypeError, struct.error):
        raise UserError(f"{path}: not a whole SentencePiece model") from None
    names = {name: pieces[i].text for name, i in places.items() if 0 <= i < len(pieces)}
    users = [piece.text for piece in pieces if piece.kind == USER_DEFINED]
    if "unk" not in names:
        raise UserError(f"{path}: not a SentencePiece model with a piece for what is unknown")
    if kind not in (_UNIGRAM, _BPE) or suffixes or not spaces or (users and prefix):
        raise UserError(
            f"{path}: supported are SentencePiece models of the types unigram and bpe that write spaces as {SPACE} "
            f"before words, and with a space before texts no user-defined pieces{f' ({users[0]!r})' if users else ''}"
        )
    backend = sentencepiece_backend(
        pieces, places["unk"], unigram=kind == _UNIGRAM, charsmap=charsmap, prefix=bool(prefix), trims=bool(trims)
    )
    backend.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(extra_ids))])
    return backend, SpecialTokens(**names)


def sentencepiece_backend(
    pieces: Sequence[Piece], unknown: int | None, *, unigram: bool, charsmap: bytes, prefix: bool, trims: bool
) -> tokenizers.Tokenizer:
    """What `tokenizers` makes of the content of a SentencePiece model.

    Args:
        pieces: the vocabulary in the order of the ids.
        unknown: the id of the piece for what is unknown; a BPE model with pieces for bytes needs none.
        unigram: whether the model is of that type, else BPE.
        charsmap: compiled rules of normalisation, empty where there are none.
        prefix: whether a space is put before a text.
        trims: whether spaces at the ends of a text, and all but one of several, are cut.
    """
    bytes_too = any(piece.kind == BYTE for piece in pieces)
    if unigram:
        scores = [(piece.text, piece.score) for piece in pieces]
        backend = tokenizers.Tokenizer(Unigram(scores, unknown, bytes_too))
    else:
        backend = tokenizers.Tokenizer(_bpe(pieces, None if unknown is None else pieces[unknown].text, bytes_too))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(charsmap)] if charsmap else []
    if trims:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    cuts = not any(SPACE in piece.text[1:] for piece in pieces)  # before each ▁, if no piece reaches over one
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "never", cuts)
    after = [decoders.ByteFallback()] if bytes_too else []
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), *after, decoders.Fuse(), *strip])
    controls = [piece.text for piece in pieces if piece.kind in (CONTROL, UNKNOWN)]
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in controls])
    backend.add_tokens([AddedToken(piece.text, normalized=False) for piece in pieces if piece.kind == USER_DEFINED])
    return backend


def _fields(data: bytes) -> Mapping[int, list[Any]]:
    """The numbered fields of a message, each a list: whole numbers, or bytes."""
    fields: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            fields[key >> 3].append(value)
            continue
        size, at = _varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}.get(key & 7, len(data)), at)
        if at + size > len(data):
            raise ValueError("the file ends inside a field")
        fields[key >> 3].append(data[at : at + size])
        at += size
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of 64 bits, seven in a byte, and where it ends."""
    end = at
    while data[end] & 128:
        end += 1
    number = sum((byte & 127) << 7 * i for i, byte in enumerate(data[at : end + 1]))
    return number - (number >> 63 << 64), end + 1


def _last(message: Mapping[int, list[Any]], field: int, default: Any) -> Any:
    """The value of a field, which must be of the type of the default."""
    value = message.get(field, [default])[-1]
    if type(value) is not type(default):
        raise ValueError("a field of another type was expected")
    return value


def _piece(message: Mapping[int, list[Any]]) -> Piece:
    score = struct.unpack("<f", _last(message, 2, bytes(4)))[0]
    return Piece(_last(message, 1, b"").decode(), score, _last(message, 3, NORMAL))


def _bpe(pieces: Sequence[Piece], unknown: str | None, bytes_too: bool) -> BPE:
    """SentencePiece joins the two neighbours whose joint piece scores best: a merge for every way to cut each piece."""
    normal = {piece.text: i for i, piece in enumerate(pieces) if piece.kind == NORMAL}
    merges = sorted(
        (-pieces[i].score, i, normal[text[:cut]], normal[text[cut:]])
        for text, i in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    )
    ids = {piece.text: i for i, piece in enumerate(pieces)}
    pairs = [(pieces[left].text, pieces[right].text) for _, _, left, right in merges]
    return BPE(ids, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=bytes_too)
