"""Tokenizers in the files of their authors: WordPiece's `vocab.txt`, and `vocab.json` with `merges.txt`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from langwright.base.errors import UserError
from langwright.base.files import read_json
from langwright.text.special_tokens import END_OF_TEXT, SpecialTokens
from langwright.text.token_bytes import BYTE_OF_CHARACTER

WORD_END = "</w>"
BERT_SPECIALS = SpecialTokens(pad="[PAD]", unknown="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")
ROBERTA_SPECIALS = SpecialTokens(
    bos="<s>", eos="</s>", pad="<pad>", unknown="<unk>", cls="<s>", sep="</s>", mask="<mask>"
)


def read_wordpiece(path: Path, config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    """BERT's tokenizer: one token a line, its number the id; words cut greedily from the left (Wu et al., 2016).

    config: `do_lower_case` (true unless said otherwise), `strip_accents`, `tokenize_chinese_chars`.
    """
    try:
        tokens = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: bad byte at offset {error.start}") from None
    ids = {token.rstrip("\r"): i for i, token in enumerate(tokens)}
    names = [name for name in vars(BERT_SPECIALS).values() if name is not None]
    if missing := [name for name in names if name not in ids]:
        raise UserError(f"{path}: the vocabulary lacks {', '.join(missing)}; is it one of BERT's?")
    backend = tokenizers.Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens(names)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return backend, BERT_SPECIALS


def read_merges_and_vocabulary(vocabulary: Path, merges: Path) -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    """GPT-2's byte-level BPE, RoBERTa's with its own special tokens, or GPT-1's, whose words end in `</w>`."""
    ids = read_json(vocabulary, "the vocabulary")
    if not isinstance(ids, dict) or not all(isinstance(id, int) for id in ids.values()):
        raise UserError(f"{vocabulary}: the vocabulary must map each token to its id")
    if any(token.endswith(WORD_END) for token in ids) and "Ġ" not in ids:
        return _gpt1(ids, vocabulary, merges)
    if missing := [f"{byte:#04x}" for character, byte in BYTE_OF_CHARACTER.items() if character not in ids]:
        raise UserError(f"{vocabulary}: the vocabulary lacks {len(missing)} of the 256 bytes, {missing[0]} first")
    backend = tokenizers.Tokenizer(_bpe(ids, vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = [name for name in vars(ROBERTA_SPECIALS).values() if name is not None]
    if END_OF_TEXT in ids or not ids.keys() >= set(names):
        if END_OF_TEXT not in ids:
            return backend, SpecialTokens()
        backend.add_special_tokens([END_OF_TEXT])
        return backend, SpecialTokens(bos=END_OF_TEXT, eos=END_OF_TEXT)
    backend.add_special_tokens(
        [AddedToken(name, lstrip=name == "<mask>", normalized=False, special=True) for name in dict.fromkeys(names)]
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]), True, False)
    return backend, ROBERTA_SPECIALS


def _gpt1(ids: dict[str, int], vocabulary: Path, merges: Path) -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    if "<unk>" not in ids:
        raise UserError(f"{vocabulary}: the vocabulary lacks <unk>; is it that of GPT-1?")
    backend = tokenizers.Tokenizer(_bpe(ids, vocabulary, merges, unk_token="<unk>", end_of_word_suffix=WORD_END))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=WORD_END)
    backend.add_special_tokens(["<unk>"])
    return backend, SpecialTokens(unknown="<unk>")


def _bpe(ids: dict[str, int], vocabulary: Path, merges: Path, **settings: Any) -> BPE:
    try:
        return BPE(vocab=ids, merges=_read_merges(merges), **settings)
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{merges}: does not fit {vocabulary.name}: {error}") from None


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: bad byte at offset {error.start}") from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        match line.split(" "):
            case [left, right]:
                pairs.append((left, right))
            case _:
                raise UserError(f"{path}:{number}: a merge is two tokens with one space between, not {line!r}")
    return pairs
