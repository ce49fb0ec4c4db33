"""Tokenizers in the files of their authors: WordPiece's `vocab.txt`, and `vocab.json` with `merges.txt`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from langwright.base.errors import UserError
from langwright.base.files import read_json, read_text
from langwright.text.special_tokens import BERT, ROBERTA, SpecialTokens, usual_special_tokens
from langwright.text.token_bytes import BYTE_OF_CHARACTER

WORD_END = "</w>"


def read_wordpiece(path: Path, config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    """BERT's tokenizer: one token a line, its number the id; words cut greedily from the left (Wu et al., 2016).

    config: `do_lower_case` (true unless said otherwise), `strip_accents`, `tokenize_chinese_chars`.
    """
    tokens = read_text(path, "the vocabulary").rstrip("\n").split("\n")
    ids = {token.rstrip("\r"): i for i, token in enumerate(tokens)}
    if missing := [name for name in BERT.config().values() if name not in ids]:
        raise UserError(f"{path}: the vocabulary lacks {', '.join(missing)}; is it one of BERT's?")
    return wordpiece_backend(ids, config), BERT


def wordpiece_backend(ids: Mapping[str, int], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's tokenizer with this vocabulary; `config` as for `read_wordpiece`."""
    backend = tokenizers.Tokenizer(WordPiece(dict(ids), unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens(list(BERT.config().values()))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
    )
    return backend


def read_merges_and_vocabulary(vocabulary: Path, merges: Path) -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    """GPT-2's byte-level BPE, RoBERTa's with its own special tokens, or GPT-1's, whose words end in `</w>`."""
    ids = read_json(vocabulary, "the vocabulary")
    if not isinstance(ids, dict) or not all(isinstance(id, int) for id in ids.values()):
        raise UserError(f"{vocabulary}: the vocabulary must map each token to its id")
    words = any(token.endswith(WORD_END) for token in ids) and "Ġ" not in ids
    if missing := [token for token in (["<unk>"] if words else BYTE_OF_CHARACTER) if token not in ids]:
        raise UserError(f"{vocabulary}: the vocabulary lacks {len(missing)} of its single tokens, {missing[0]!r} first")
    lines = re.sub(r"\A#version.*", "", read_text(merges, "the merges")).split("\n")
    pairs: Any = [tuple(line.split(" ")) for line in lines if line]
    settings: dict[str, Any] = {"unk_token": "<unk>", "end_of_word_suffix": WORD_END} if words else {}
    try:
        backend = tokenizers.Tokenizer(BPE(ids, pairs, **settings))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{merges}: does not fit {vocabulary.name}: {error}") from None
    if words:
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix=WORD_END)
        backend.add_special_tokens(["<unk>"])
        return backend, SpecialTokens(unk="<unk>")
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = usual_special_tokens(ids)
    names = dict.fromkeys(special.config().values())
    backend.add_special_tokens(
        [AddedToken(name, lstrip=name == "<mask>", normalized=False, special=True) for name in names]
    )
    if special == ROBERTA:
        backend.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]), True, False)
    return backend, special
