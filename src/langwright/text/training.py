"""New vocabularies: byte-level BPE, characters, and raw bytes, through which any string round-trips; and words."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import tokenizers
from tokenizers import Regex, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer, WordLevelTrainer

from langwright.base.console import progress, warn
from langwright.base.errors import UserError
from langwright.text.special_tokens import SpecialTokens
from langwright.text.token_bytes import CHARACTER_OF_BYTE
from langwright.text.tokenizer import PLAIN_CONFIG, Tokenizer

NAMES = SpecialTokens(bos="<|bos|>", eos="<|eos|>", pad="<|pad|>")
SPECIALS = list(NAMES.config().values())
"""The special tokens of every vocabulary made here; their ids are 0, 1 and 2, or the last where tokens are words."""
UNKNOWN = "<unk>"
"""Stands for all words that a vocabulary of words does not hold, and is itself a word of some texts."""

CONFIG = {**PLAIN_CONFIG, "add_bos_token": True}
SMALLEST_BPE = len(SPECIALS) + 256


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE vocabulary (GPT-2's word rule, all 256 bytes, no unknown token).

    Deterministic: the same texts, in any order, give the same tokenizer. Pairs of tokens seen only once are never
    merged, so little text may give fewer tokens than asked for; a warning says so.
    Raises UserError when `vocab_size` cannot hold the special tokens and the bytes.
    """
    if vocab_size < SMALLEST_BPE:
        raise UserError(f"a vocabulary of {vocab_size} is too small: special tokens and bytes need {SMALLEST_BPE}")
    backend = tokenizers.Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=SPECIALS,
        initial_alphabet=list(CHARACTER_OF_BYTE.values()),
        show_progress=False,
    )
    with progress("reading text for the tokenizer", None, "characters") as advance:
        backend.train_from_iterator(_told(texts, advance), trainer)
    tokenizer = Tokenizer(backend, NAMES, CONFIG)
    if tokenizer.vocab_size < vocab_size:
        warn(f"the text gives {tokenizer.vocab_size} tokens, not {vocab_size}; more text would give more")
    return tokenizer


def train_words(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The most frequent words, lower-cased, as tokens; all others are <unk>.

    Words are what stands between blanks, and the end of a line is a word, as the Penn Treebank is usually read. Blanks
    and upper case are not kept. Deterministic: of words equally frequent the first in the alphabet come first.
    Raises UserError when `vocab_size` cannot hold the special tokens and a word.
    """
    room = vocab_size - len(SPECIALS)
    if room < 2:
        raise UserError(
            f"a vocabulary of {vocab_size} is too small: special tokens and a word need {len(SPECIALS) + 2}"
        )
    backend = tokenizers.Tokenizer(WordLevel({}, unk_token=UNKNOWN))
    backend.normalizer, backend.pre_tokenizer = Lowercase(), _words()
    with progress("reading text for the tokenizer", None, "characters") as advance:
        trainer = WordLevelTrainer(vocab_size=room, show_progress=False, special_tokens=[UNKNOWN])
        backend.train_from_iterator(_told(texts, advance), trainer)
    # A new one, in which <unk> is a word like others, and no word of a text is a special token.
    made = tokenizers.Tokenizer(WordLevel(backend.get_vocab(), unk_token=UNKNOWN))
    made.normalizer, made.pre_tokenizer = Lowercase(), _words()
    made.decoder = decoders.WordPiece(prefix=" ", cleanup=False)  # words with blanks between them; none begins with one
    made.add_special_tokens(SPECIALS)
    return Tokenizer(made, replace(NAMES, unk=UNKNOWN), CONFIG)


def _words() -> Sequence:
    return Sequence([Split("\n", "isolated"), Split(Regex(r"[^\S\n]+"), "removed")])


def characters(texts: Iterable[str]) -> Tokenizer:
    """One token for each character in the texts, in code-point order, after 256 byte tokens for all others."""
    seen: set[str] = set()
    for text in texts:
        seen.update(text)
    return _without_merges([f"<0x{byte:02X}>" for byte in range(256)] + sorted(seen), byte_level=False)


def raw_bytes() -> Tokenizer:
    """One token for each byte of the UTF-8 text: id = byte + 3."""
    return _without_merges([CHARACTER_OF_BYTE[byte] for byte in range(256)], byte_level=True)


def _without_merges(tokens: list[str], *, byte_level: bool) -> Tokenizer:
    """A tokenizer whose tokens never join; it needs no words, so text is not split (which is also the fastest)."""
    vocabulary = {token: id for id, token in enumerate(SPECIALS + tokens)}
    backend = tokenizers.Tokenizer(BPE(vocab=vocabulary, merges=[], byte_fallback=not byte_level))
    if byte_level:
        backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(SPECIALS)
    return Tokenizer(backend, NAMES, CONFIG)


def _told(texts: Iterable[str], advance: Callable[[int], None]) -> Iterator[str]:
    for text in texts:
        yield text
        advance(len(text))
