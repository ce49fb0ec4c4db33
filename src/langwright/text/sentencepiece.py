"""SentencePiece models (`tokenizer.model`, `spiece.model`): the file read, and the same ids from `tokenizers`.

The file is a protocol buffer, `ModelProto` of sentencepiece_model.proto (Kudo and Richardson, 2018); the little that is
needed of that format is read here.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from langwright.base.errors import UserError
from langwright.text.special_tokens import SpecialTokens

SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
Value = int | bytes


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary. kind: normal 1, unknown 2, control 3, user-defined 4, unused 5, byte 6."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What a file says, as far as it decides the ids.

    special: the ids of unk, bos, eos and pad, -1 where there is none. charsmap: compiled rules of normalisation.
    """

    pieces: Sequence[Piece]
    kind: str
    special: Mapping[str, int]
    charsmap: bytes
    prefix: bool
    trims: bool


def read_model(path: Path) -> Model:
    """A SentencePiece file; UserError where it is none, or needs what is not supported here."""
    try:
        pieces, trainer, normalizer = [], dict[int, Value](), dict[int, Value]()
        for field, value in _fields(path.read_bytes()):
            match field, value:
                case 1, bytes():
                    pieces.append(_piece(dict(_fields(value))))
                case 2, bytes():
                    trainer = dict(_fields(value))
                case 3, bytes():
                    normalizer = dict(_fields(value))
    except (IndexError, ValueError, struct.error, AssertionError):
        raise UserError(f"{path}: not a whole SentencePiece model") from None
    if not pieces:
        raise UserError(f"{path}: not a SentencePiece model, it holds no pieces")
    kind = _KINDS.get(_number(trainer, 3, 1), "?")
    if kind not in ("unigram", "bpe"):
        raise UserError(f"{path}: a SentencePiece model of type {kind} is not supported, only unigram and bpe")
    if _number(trainer, 24, 0) or not _number(normalizer, 5, 1):
        raise UserError(
            f"{path}: SentencePiece models that do not write spaces as {SPACE} before words are not supported"
        )
    names = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
    special = {name: _number(trainer, field, default) for name, (field, default) in names.items()}
    charsmap = normalizer.get(2, b"")
    assert isinstance(charsmap, bytes)
    return Model(pieces, kind, special, charsmap, bool(_number(normalizer, 3, 1)), bool(_number(normalizer, 4, 1)))


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """The numbered fields of a message: whole numbers, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
                continue
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case 1:
                size = 8
            case _:
                raise ValueError("no such kind of field")
        if at + size > len(data):
            raise ValueError("the file ends inside a field")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of 64 bits, seven in a byte, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return (number - (1 << 64) if number >> 63 else number), at


def _number(message: Mapping[int, Value], field: int, default: int) -> int:
    value = message.get(field, default)
    if not isinstance(value, int):
        raise ValueError("a number was expected")
    return value


def _piece(message: Mapping[int, Value]) -> Piece:
    text, score = message.get(1, b""), message.get(2, bytes(4))
    assert isinstance(text, bytes)
    assert isinstance(score, bytes)
    return Piece(text.decode(), struct.unpack("<f", score)[0], _number(message, 3, _NORMAL))


def read_sentencepiece(path: Path, extra_ids: int = 0) -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    """A tokenizer with the ids of a SentencePiece file, and its special tokens.

    Where a model brings rules of normalisation, `tokenizers` takes a letter and its combining marks as one, which for
    a few rare letters gives other ids than SentencePiece's own code (3 of 5,135 odd texts with T5's model).
    extra_ids: how many sentinels `<extra_id_N>` follow the vocabulary, the highest first (T5).
    """
    model = read_model(path)
    names = {name: model.pieces[i].text for name, i in model.special.items() if 0 <= i < len(model.pieces)}
    if "unknown" not in names:
        raise UserError(f"{path}: there is no piece for what is unknown")
    bytes_too = any(piece.kind == _BYTE for piece in model.pieces)
    backend = tokenizers.Tokenizer(_unigram(model, bytes_too) if model.kind == "unigram" else _bpe(model, bytes_too))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.trims:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if model.prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    backend.pre_tokenizer = _words(model)
    after = [decoders.ByteFallback()] if bytes_too else []
    strip = [decoders.Strip(" ", 1, 0)] if model.prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), *after, decoders.Fuse(), *strip])
    controls = [piece.text for piece in model.pieces if piece.kind in (_CONTROL, _UNKNOWN)]
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in controls])
    users = [piece.text for piece in model.pieces if piece.kind == _USER_DEFINED]
    if users and model.prefix:  # each stretch between them would get a space in front
        raise UserError(f"{path}: user-defined pieces ({users[0]!r}) with a space before texts are not supported")
    backend.add_tokens([AddedToken(text, normalized=False) for text in users])
    backend.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(extra_ids))])
    return backend, SpecialTokens(**names)


def _unigram(model: Model, bytes_too: bool) -> Unigram:
    return Unigram([(piece.text, piece.score) for piece in model.pieces], model.special["unknown"], bytes_too)


def _bpe(model: Model, bytes_too: bool) -> BPE:
    """SentencePiece joins the two neighbours whose joint piece scores best: a merge for every way to cut each piece."""
    ids = {piece.text: i for i, piece in enumerate(model.pieces)}
    joined = {piece.text for piece in model.pieces if piece.kind == _NORMAL}
    merges = []
    for piece in model.pieces:
        if piece.kind == _NORMAL:
            cuts = ((piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text)))
            pairs = [(left, right) for left, right in cuts if left in joined and right in joined]
            merges += [
                (-piece.score, ids[piece.text], pair) for pair in sorted(pairs, key=lambda p: (ids[p[0]], ids[p[1]]))
            ]
    merges.sort(key=lambda merge: merge[:2])
    unknown = model.pieces[model.special["unknown"]].text
    return BPE(ids, [pair for *_, pair in merges], unk_token=unknown, fuse_unk=True, byte_fallback=bytes_too)


def _words(model: Model) -> pre_tokenizers.PreTokenizer:
    """Cut before each ▁ if no piece reaches over one, and through the names of control pieces, which no text means."""
    cuts = not any(SPACE in piece.text[1:] for piece in model.pieces)
    words = pre_tokenizers.Metaspace(SPACE, "never", cuts)
    names = [piece.text for piece in model.pieces if piece.kind in (_CONTROL, _UNKNOWN, _BYTE) and len(piece.text) > 1]
    if model.kind == "bpe" or not names:
        return words
    apart = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names)
    return pre_tokenizers.Sequence([words, pre_tokenizers.Split(Regex(apart), "merged_with_previous")])
