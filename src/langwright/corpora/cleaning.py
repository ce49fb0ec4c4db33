"""What can be told of texts and conversations without a model: words, duplicates, faults, how much an answer says."""

import functools
import hashlib
import itertools
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

from langwright.corpora.conversations import Chat

SHINGLE = 3
"""Tokens in a shingle."""

PERMUTATIONS = 128
RECALL = 0.99
"""The chance that a pair just at the threshold is found."""

FULL_ANSWER = 30
"""Words from which on an answer is not taken for too short to teach much."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_PIECE = rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}_]&&[^{_UNSPACED}]]+|\s+|\S"
_SPLIT = pre_tokenizers.Split(Regex(_PIECE), "isolated")
_ASCII_TOKEN = re.compile(r"\w+|\W", re.ASCII)


def pieces(text: str) -> list[str]:
    """Cut a text into pieces that together are the text.

    A piece is a run of letters with their marks, digits and underscores; one character, with its marks, of a script
    that puts no spaces between words; a run of white space; or one sign of any other kind.
    """
    return [piece for piece, _ in _SPLIT.pre_tokenize_str(text)]


def tokens(text: str) -> list[str]:
    """The pieces of a text but its white space, in lower case."""
    parts = text.lower().split()
    return [token for part in parts for token in (_ASCII_TOKEN.findall(part) if part.isascii() else _tokens(part))]


@functools.lru_cache(1 << 16)
def _tokens(part: str) -> list[str]:
    """The tokens of a part without white space; the pieces of any script take 20 times as long as those of ASCII."""
    return pieces(part)


def words(text: str) -> list[str]:
    """The tokens of a text that are no signs."""
    return [token for token in tokens(text) if is_word(token)]


def is_word(piece: str) -> bool:
    """Whether a piece is of letters or digits."""
    return piece.isalnum() or any(character.isalnum() or character == "_" for character in piece)


def shingles(parts: Sequence[str]) -> frozenset[str]:
    """Every run of `SHINGLE` tokens; of fewer, all of them as one."""
    count = max(1, len(parts) - SHINGLE + 1)
    return frozenset(" ".join(parts[i : i + SHINGLE]) for i in range(count))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """The share of all shingles of two texts that both have, from 0 to 1."""
    return len(a & b) / len(a | b)


def exact_duplicates(keys: Sequence[str]) -> list[int]:
    """The numbers of the texts that equal an earlier one."""
    first: dict[str, int] = {}
    return [i for i, key in enumerate(keys) if first.setdefault(key, i) != i]


def near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """The numbers of the texts whose Jaccard similarity to an earlier one that is kept reaches `threshold`, and which.

    MinHash (Broder, 1997) with locality-sensitive hashing: `PERMUTATIONS` smallest hashes of a text's shingles are cut
    into bands; texts that agree on a band are compared exactly, so that nothing is dropped by mistake, and a pair at
    the threshold is missed with a probability of at most 1 - `RECALL`. The same texts always give the same answer.
    """
    width = band_width(threshold)
    numbers = np.random.default_rng(0).integers(0, 2**64, (2, PERMUTATIONS, 1), dtype=np.uint64)
    multipliers, offsets = numbers[0] | np.uint64(1), numbers[1]
    buckets: dict[tuple[int, bytes], list[int]] = {}
    sets: list[frozenset[str]] = []
    found: dict[int, int] = {}
    for number, text in enumerate(texts):
        own = shingles(tokens(text))
        sets.append(own)
        signature = _signature(own, multipliers, offsets)
        bands = [(i, signature[i : i + width].tobytes()) for i in range(0, PERMUTATIONS - width + 1, width)]
        candidates = sorted({other for band in bands for other in buckets.get(band, ())})
        match = next((other for other in candidates if jaccard(own, sets[other]) >= threshold), None)
        if match is None:
            for band in bands:
                buckets.setdefault(band, []).append(number)
        else:
            found[number] = match
    return found


def band_width(threshold: float) -> int:
    """The most hashes a band may have while a pair at the threshold still shares one with probability `RECALL`."""
    widths = range(1, PERMUTATIONS + 1)
    return max((w for w in widths if 1 - (1 - threshold**w) ** (PERMUTATIONS // w) >= RECALL), default=1)


def _signature(own: frozenset[str], multipliers: NDArray[np.uint64], offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    hashes = b"".join(hashlib.blake2b(shingle.encode(), digest_size=8).digest() for shingle in own)
    numbers = np.frombuffer(hashes, "<u8")
    mixed = numbers[None] * multipliers + offsets  # modulo 2**64
    return (mixed ^ (mixed >> np.uint64(32))).min(1)


def faults(chat: Chat, specials: Sequence[str] = ()) -> list[str]:
    """What is wrong with a conversation, in a few words each.

    An empty answer, an answer that only repeats its question, turns that do not alternate, a system message that is
    not the first, and the names of special tokens inside a message, which a template would take for the tokens.
    """
    found = []
    turns = [m["role"] for m in chat.messages if m["role"] in ("user", "assistant") and not m.get("tool_calls")]
    for before, message in zip((None, *chat.messages), chat.messages, strict=False):
        if message["role"] == "assistant" and not message.get("tool_calls"):
            if not message["content"].strip():
                found.append("empty answer")
            elif before is not None and message["content"].strip() == before["content"].strip():
                found.append("answer repeats the question")
        if message["role"] == "system" and before is not None:
            found.append("system message after the first")
        if any(special in message["content"] for special in specials):
            found.append("special token in the text")
    if any(a == b for a, b in itertools.pairwise(turns)) and "tool" not in {m["role"] for m in chat.messages}:
        found.append("turns do not alternate")
    return list(dict.fromkeys(found))


def heuristic_score(chat: Chat) -> float:
    """From 0 to 1: how much the answers say, without a model.

    The product of three shares: of different runs of three words among all of the answer (what repeats itself teaches
    little); of `FULL_ANSWER` words that the answer reaches; and of the answer's runs of words that are not taken from
    the question.
    """
    said = words(chat.answer)
    if not said:
        return 0.0
    own = shingles(said)
    varied = len(own) / max(1, len(said) - SHINGLE + 1)
    return varied * min(1.0, len(said) / FULL_ANSWER) * len(own - shingles(words(chat.prompt))) / len(own)
