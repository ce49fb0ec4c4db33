"""Tokenizers in GGUF files: the fields that llama.cpp reads, written and read.

llama.cpp has four kinds: "gpt2" (byte-level BPE, whose way of cutting words is named by `tokenizer.ggml.pre`), "llama"
(SentencePiece's BPE), "t5" (SentencePiece's unigram) and "bert" (WordPiece).
"""

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from langwright.base.errors import UserError, first_line
from langwright.base.gguf import GGUF
from langwright.text.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    sentencepiece_backend,
)
from langwright.text.special_tokens import BERT, SpecialTokens
from langwright.text.token_bytes import BYTE_TOKEN
from langwright.text.tokenizer import PLAIN_CONFIG, Tokenizer
from langwright.text.vocabularies import wordpiece_backend

Fields = dict[str, Any]
KEY = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
IDS = {
    "bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown", "cls": "cls", "sep": "seperator", "mask": "mask",
}  # fmt: skip
"""Special tokens -> their keys, `KEY` and `_token_id` left out. The spelling of sep is llama.cpp's."""
_ENDS = ("eos", "eot", "eom")
"""Where the ids that end a text stand."""
_CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_WORDS = {**_BYTES, "use_regex": True}


def _split(pattern: str) -> list[Fields]:
    """A rule of one regular expression, as `tokenizer.json` has it."""
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, _BYTES]


RULES: dict[str, list[Fields]] = {
    "gpt-2": [_WORDS],
    "llama-bpe": _split(_CASELESS + r"\p{N}{1,3}" + _REST),
    "qwen2": _split(_CASELESS + r"\p{N}" + _REST),
    "bloom": _split(r" ?[^(\s|[.,!?…。，、।۔،])]+"),
    "smollm": [{"type": "Digits", "individual_digits": True}, _WORDS],
}
"""`tokenizer.ggml.pre` -> how words are cut before tokens are joined, the steps of `tokenizer.json`."""
_SAME = {"mpt": "gpt-2", "olmo": "gpt-2", "llama3": "llama-bpe", "smaug-bpe": "llama-bpe", "starcoder": "smollm"}
"""Other names of these rules."""
_WHOLE = ("llama-bpe", "llama3")
"""Those with which a word that is in the vocabulary is one token, whatever the merges say; "smaug-bpe" is without."""
_NO_MERGE = "<none> <none>"
"""Stands in files without merges, since llama.cpp wants the list; no text holds these symbols."""


class InexpressibleError(Exception):
    """What llama.cpp has no field for."""


@dataclass(frozen=True)
class _Written:
    """A tokenizer on its way into a file.

    Args:
        model: what llama.cpp calls the kind.
        fields: beyond those that all kinds have.
        unknown: the token for what is unknown.
        spell: the text in the file of a token that is not special.
        scores: of each token, in kinds that have them.
        framed: whether the fields say what stands before and behind a text.
    """

    model: str
    fields: Fields
    unknown: str | None = None
    spell: Callable[[str], str] = str
    scores: Mapping[str, float] | None = None
    framed: bool = True


def tokenizer_fields(tokenizer: Tokenizer, size: int) -> Fields:
    """The fields of a tokenizer in a file for llama.cpp.

    Args:
        tokenizer: the tokenizer.
        size: of the model's vocabulary; ids without a token get one that no text has.

    Raises:
        UserError: llama.cpp has no tokenizer that gives the same ids; names the reason.
    """
    try:
        written = _write(tokenizer.layout)
        frame = _frame(tokenizer) if written.framed else {}
    except InexpressibleError as error:
        raise UserError(f"llama.cpp has no tokenizer with the same ids: {error}; --format folder needs none") from None
    added = {token["id"]: USER_DEFINED for token in tokenizer.layout["added_tokens"]}
    added |= dict.fromkeys(tokenizer.special_ids, CONTROL)
    by_id = {id: token for token, id in _vocabulary(tokenizer.layout).items()}
    tokens, kinds = [], []
    for id in range(size):
        token = by_id.get(id)
        plain = token is not None and id not in added
        tokens.append(f"[PAD{id}]" if token is None else written.spell(token) if plain else token)
        kind = BYTE if plain and written.scores is not None and BYTE_TOKEN.fullmatch(str(token)) else NORMAL
        kinds.append(UNUSED if token is None else UNKNOWN if token == written.unknown else added.get(id, kind))
    fields = {"model": written.model, "tokens": tokens, "token_type": kinds, **written.fields, **frame}
    if written.scores is not None:
        fields["scores"] = [written.scores.get(by_id.get(id, ""), -1e4) for id in range(size)]
    ids = {key: getattr(tokenizer, "unknown_id" if use == "unk" else f"{use}_id") for use, key in IDS.items()}
    if not written.framed:
        ids |= {"bos": tokenizer.cls_id, "eos": tokenizer.sep_id}
    if len(tokenizer.ends) > len(_ENDS):
        raise UserError(f"{len(tokenizer.ends)} tokens end a text, and a GGUF file holds {len(_ENDS)} of them")
    ids |= dict(zip(_ENDS, tokenizer.ends, strict=False))
    fields |= {f"{key}_token_id": id for key, id in ids.items() if id is not None}
    found = {KEY + key: value for key, value in fields.items()}
    template = tokenizer.config.get("chat_template")
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}.get("default")
    return found | ({} if template is None else {TEMPLATE: template})


def _vocabulary(layout: Mapping[str, Any]) -> dict[str, int]:
    """All tokens of a `tokenizer.json` and their ids."""
    model = layout["model"]["vocab"]
    ids = dict(model) if isinstance(model, Mapping) else {token: id for id, (token, _) in enumerate(model)}
    return ids | {token["content"]: token["id"] for token in layout["added_tokens"]}


def _steps(step: Fields | None, inner: str) -> list[Fields]:
    """The steps of a normalizer or pre-tokenizer, taken out of sequences."""
    if step is None:
        return []
    return [one for part in step[inner] for one in _steps(part, inner)] if step["type"] == "Sequence" else [step]


def _frame(tokenizer: Tokenizer) -> Fields:
    """Whether bos stands before a text and eos behind it."""
    ids, own = tokenizer.frame("a")[0], tokenizer.encode("a")
    for begins in ([], [tokenizer.bos_id]):
        for ends in ([], [tokenizer.eos_id]):
            if ids == [*begins, *own, *ends]:
                return {"add_bos_token": bool(begins), "add_eos_token": bool(ends)}
    raise InexpressibleError("what it puts before and behind a text is more than bos and eos")


def _write(layout: Mapping[str, Any]) -> _Written:
    model, decoder = layout["model"], json.dumps(layout["decoder"])
    if model["type"] == "BPE" and '"ByteLevel"' in decoder:
        return _write_byte_level(layout)
    if model["type"] == "BPE" and model["byte_fallback"]:
        return _write_bpe(layout)
    if model["type"] == "Unigram" and not model["byte_fallback"]:
        return _write_unigram(layout)
    if model["type"] == "WordPiece":
        return _write_wordpiece(layout)
    raise InexpressibleError(f"it is a {model['type']} model, with neither byte-level tokens nor SentencePiece's")


def _write_byte_level(layout: Mapping[str, Any]) -> _Written:
    model = layout["model"]
    # llama.cpp leaves NFC to whoever writes the text.
    if other := [s["type"] for s in _steps(layout["normalizer"], "normalizers") if s["type"] != "NFC"]:
        raise InexpressibleError(f"it has the normalizer {other[0]}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    cut = [
        {k: v for k, v in s.items() if k != "trim_offsets"} for s in _steps(layout["pre_tokenizer"], "pretokenizers")
    ]
    found = [name for name, steps in RULES.items() if steps == cut]
    if not merges and cut == [_BYTES]:
        found = ["gpt-2"]  # tokens never join, so that it does not matter
    if not found:
        raise InexpressibleError(f"tokenizer.ggml.pre has no name for its rule of cutting words, {json.dumps(cut)}")
    if bool(model.get("ignore_merges")) != (found[0] in _WHOLE):
        if found[0] not in _WHOLE:
            raise InexpressibleError(f'its "ignore_merges" does not go with its rule of cutting words, {found[0]}')
        found = ["smaug-bpe"]
    return _Written("gpt2", {"pre": found[0], "merges": merges or [_NO_MERGE]}, model["unk_token"])


def _spaces(layout: Mapping[str, Any]) -> tuple[bool, bool, bytes, bool]:
    """Of SentencePiece: whether a space is put before a text; whether spaces are cut; compiled rules; ▁ for spaces."""
    prefix = trims = meta = False
    charsmap = b""
    for step in _steps(layout["normalizer"], "normalizers"):
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                prefix = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                meta = True
            case {"type": "Replace", "pattern": {"Regex": " {2,}" | r"\A +| +\z"}}:
                trims = True
            case {"type": "Precompiled", "precompiled_charsmap": rules}:
                charsmap = base64.b64decode(rules)
            case _:
                raise InexpressibleError(f"it has the normalizer {json.dumps(step)[:80]}")
    for step in _steps(layout["pre_tokenizer"], "pretokenizers"):
        match step:
            case {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme}:
                prefix, meta = prefix or scheme != "never", True
            case {"type": "WhitespaceSplit"}:
                trims = True
            case {"type": "Split", "behavior": "MergedWithPrevious"}:  # by a space, or names of special tokens apart
                pass
            case _:
                raise InexpressibleError(f"it has the pre-tokenizer {json.dumps(step)[:80]}")
    return prefix, trims, charsmap, meta


def _write_bpe(layout: Mapping[str, Any]) -> _Written:
    prefix, trims, charsmap, meta = _spaces(layout)
    model, special = layout["model"], {token["content"] for token in layout["added_tokens"]}
    if trims or charsmap:
        raise InexpressibleError("it is a BPE model with rules of normalisation")
    if not meta and SPACE in model["vocab"]:
        raise InexpressibleError(f"it has tokens for the space and for {SPACE}, which are one to llama.cpp")
    normal = {t for t in model["vocab"] if t not in special and not BYTE_TOKEN.fullmatch(t)}
    ways: dict[str, set[tuple[str, str]]] = defaultdict(set)
    scores: dict[str, float] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        scores.setdefault(left + right, -float(rank))
        ways[left + right].add((left, right))
    for token in normal:
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        if ways[token] != {cut for cut in cuts if cut[0] in normal and cut[1] in normal}:
            raise InexpressibleError(f'"{token}" is not joined as in a SentencePiece model')
    spell = str if meta else lambda token: token.replace(" ", SPACE)
    everything = {token: scores.get(token, -float(len(model["merges"]))) for token in model["vocab"]}
    return _Written("llama", {"pre": "default", "add_space_prefix": prefix}, model["unk_token"], spell, everything)


def _write_unigram(layout: Mapping[str, Any]) -> _Written:
    prefix, trims, charsmap, _ = _spaces(layout)
    pieces = layout["model"]["vocab"]
    fields = {"pre": "default", "add_space_prefix": prefix, "remove_extra_whitespaces": trims}
    if charsmap:
        fields["precompiled_charsmap"] = charsmap
    return _Written("t5", fields, pieces[layout["model"]["unk_id"]][0], scores=dict(pieces))


def _write_wordpiece(layout: Mapping[str, Any]) -> _Written:
    match layout["normalizer"], layout["pre_tokenizer"]:
        case {"type": "BertNormalizer", "handle_chinese_chars": True, "strip_accents": accents, "lowercase": lower}, {
            "type": "BertPreTokenizer"
        } if accents in (None, lower):
            pass
        case _:
            raise InexpressibleError("its rules are not those of BERT")
    prefix = layout["model"]["continuing_subword_prefix"]
    return _Written(
        "bert",
        {"pre": "default", "normalizer.lowercase": lower, "token_type_count": 2},
        layout["model"]["unk_token"],
        lambda token: token.removeprefix(prefix) if token.startswith(prefix) else SPACE + token,
        framed=False,
    )


def read_tokenizer(file: GGUF) -> Tokenizer:
    """The tokenizer of a file.

    Raises:
        UserError: naming the field that is missing, broken or not read.
    """
    tokens, kinds = _list(file, "tokens", str), _list(file, "token_type", int)
    kinds = kinds or [NORMAL] * len(tokens)
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        raise UserError(f"{file.path}: {KEY}tokens must name each token once, with a type for each in {KEY}token_type")
    while kinds and kinds[-1] == UNUSED:  # rows of the model's table beyond the tokenizer
        tokens, kinds = tokens[:-1], kinds[:-1]
    pieces = [Piece(token, 0.0, kind) for token, kind in zip(tokens, kinds, strict=True)]
    model = file.get(f"{KEY}model", str)
    if model not in _READERS:
        raise UserError(f"{file.path}: {KEY}model = {model!r} is not read, only {', '.join(_READERS)}")
    ids = {use: file.get(f"{KEY}{key}_token_id", int) for use, key in IDS.items()}
    for use, id in ids.items():
        if id is not None and not 0 <= id < len(tokens):
            raise UserError(f"{file.path}: {KEY}{IDS[use]}_token_id = {id} is outside the vocabulary")
    try:
        backend = _READERS[model](file, pieces, ids)
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UserError(f"{file.path}: the fields {KEY}* make no tokenizer: {first_line(error)}") from None
    if model == "bert":
        special = BERT
    else:
        special = SpecialTokens(**{use: tokens[id] for use, id in ids.items() if id is not None})
        backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special.config().values()])
    ends = [id for name in _ENDS if (id := file.get(f"{KEY}{name}_token_id", int)) is not None]
    template = file.get(TEMPLATE, str)
    config = {**PLAIN_CONFIG, **({} if template is None else {"chat_template": template})}
    made = Tokenizer(backend, special, config, str(file.path), [] if model == "bert" else ends)
    if model == "bert":
        return made
    begins = file.get(f"{KEY}add_bos_token", bool, model == "llama" or file.get(f"{KEY}pre", str) in _WHOLE)
    closes = file.get(f"{KEY}add_eos_token", bool, model == "t5")
    first, last = (
        [id for id in (ids[use],) if on and id is not None] for use, on in (("bos", begins), ("eos", closes))
    )
    return made.framed(first, last)


def _list(file: GGUF, key: str, kind: type) -> list[Any]:
    values = file.get(KEY + key, list, [])
    if any(type(value) is not kind for value in values):
        raise UserError(f"{file.path}: {KEY}{key} must be a list of type {kind.__name__}")
    return list(values)


def _add(backend: tokenizers.Tokenizer, pieces: list[Piece]) -> None:
    """Make added tokens of those that texts do not consist of."""
    controls = [piece.text for piece in pieces if piece.kind in (CONTROL, UNKNOWN)]
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in controls])
    backend.add_tokens([AddedToken(piece.text, normalized=False) for piece in pieces if piece.kind == USER_DEFINED])


def _read_byte_level(file: GGUF, pieces: list[Piece], ids: Mapping[str, int | None]) -> tokenizers.Tokenizer:
    pre = file.get(f"{KEY}pre", str)
    rule = _SAME.get(pre, pre)
    if rule not in RULES:
        raise UserError(f"{file.path}: {KEY}pre = {pre!r} is not read, only {', '.join([*RULES, *_SAME])}")
    merges = [tuple(merge.split(" ")) for merge in _list(file, "merges", str) if merge != _NO_MERGE]
    if odd := [merge for merge in merges if len(merge) != 2]:
        raise UserError(f'{file.path}: {KEY}merges holds "{" ".join(odd[0]):.80}", which is not two tokens')
    vocabulary = {piece.text: id for id, piece in enumerate(pieces)}
    unknown = ids["unk"]
    model = BPE(
        vocabulary,
        merges,
        unk_token=None if unknown is None else pieces[unknown].text,
        ignore_merges=pre in _WHOLE,
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.NFC() if rule == "qwen2" else None
    steps: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True)
        if step["type"] == "Digits"
        else pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step["use_regex"])
        if step["type"] == "ByteLevel"
        else pre_tokenizers.Split(Regex(step["pattern"]["Regex"]), "isolated")
        for step in RULES[rule]
    ]
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    _add(backend, pieces)
    return backend


def _read_sentencepiece(file: GGUF, pieces: list[Piece], ids: Mapping[str, int | None]) -> tokenizers.Tokenizer:
    scores = _list(file, "scores", float)
    if len(scores) < len(pieces):
        raise UserError(f"{file.path}: {KEY}scores must have a score for each token")
    pieces = [piece._replace(score=score) for piece, score in zip(pieces, scores, strict=False)]
    unknown = next((id for id, piece in enumerate(pieces) if piece.kind == UNKNOWN), ids["unk"])
    unigram = file.get(f"{KEY}model", str) == "t5"
    if unknown is None and unigram:
        raise UserError(f"{file.path}: {KEY}unknown_token_id is missing")
    return sentencepiece_backend(
        pieces,
        unknown,
        unigram=unigram,
        charsmap=bytes(_list(file, "precompiled_charsmap", int)),
        prefix=file.get(f"{KEY}add_space_prefix", bool, True),
        trims=file.get(f"{KEY}remove_extra_whitespaces", bool, unigram),
    )


def _read_wordpiece(file: GGUF, pieces: list[Piece], ids: Mapping[str, int | None]) -> tokenizers.Tokenizer:
    def spelt(piece: Piece) -> str:
        if piece.kind != NORMAL:
            return piece.text
        return piece.text[1:] if piece.text.startswith(SPACE) else "##" + piece.text

    vocabulary = {spelt(piece): id for id, piece in enumerate(pieces)}
    if missing := [name for name in BERT.config().values() if name not in vocabulary]:
        raise UserError(f"{file.path}: {KEY}tokens lacks {', '.join(missing)}; is it a vocabulary of BERT's?")
    return wordpiece_backend(vocabulary, {"do_lower_case": file.get(f"{KEY}normalizer.lowercase", bool, True)})


_READERS = {
    "gpt2": _read_byte_level,
    "llama": _read_sentencepiece,
    "t5": _read_sentencepiece,
    "bert": _read_wordpiece,
}
