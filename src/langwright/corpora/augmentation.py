"""New wordings of the same question: synonyms, deletion, swaps and typos (EDA, Wei and Zou, 2019).

Only what a user says is changed, never an answer. All choices come from a seed and the number of the conversation.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from langwright.base.errors import UserError, suggest
from langwright.corpora.conversations import Chat
from langwright.corpora.words import is_word, pieces

SHARE = 0.1
"""Of the words of a message that are changed, at least one."""

SYNONYMS = (
    ("big", "large"), ("small", "little", "tiny"), ("quick", "fast", "rapid"), ("begin", "start"), ("end", "finish"),
    ("help", "assist"), ("make", "create", "build"), ("write", "compose"), ("show", "display"), ("find", "locate"),
    ("explain", "clarify"), ("describe", "depict"), ("list", "enumerate"), ("give", "provide"), ("use", "employ"),
    ("get", "obtain"), ("choose", "select", "pick"), ("change", "alter", "modify"), ("fix", "repair", "mend"),
    ("remove", "delete"), ("add", "append"), ("join", "combine"), ("split", "divide"), ("compute", "calculate"),
    ("check", "verify"), ("answer", "reply"), ("question", "query"), ("text", "passage"), ("word", "term"),
    ("example", "instance"), ("way", "manner"), ("part", "portion"), ("kind", "type", "sort"), ("error", "mistake"),
    ("result", "outcome"), ("number", "count"), ("short", "brief"), ("long", "lengthy"), ("good", "fine"),
    ("bad", "poor"), ("hard", "difficult"), ("easy", "simple"), ("important", "key"), ("correct", "right"),
    ("wrong", "incorrect"), ("old", "former"), ("new", "recent"), ("main", "chief"), ("many", "numerous"),
    ("also", "too"), ("often", "frequently"), ("about", "concerning"), ("buy", "purchase"), ("speak", "talk"),
)  # fmt: skip
"""Words that may stand for each other in most places; a small list of our own, in lower case."""

_OTHERS = {word: tuple(w for w in group if w != word) for group in SYNONYMS for word in group}
Change = Callable[[list[str], random.Random], list[str]]


def synonyms(parts: list[str], rng: random.Random) -> list[str]:
    """Some words replaced by others of `SYNONYMS`."""
    known = [i for i in _words(parts) if parts[i].lower() in _OTHERS]
    for i in _some(known, len(_words(parts)), rng):
        other = rng.choice(_OTHERS[parts[i].lower()])
        parts[i] = other.capitalize() if parts[i][0].isupper() else other
    return parts


def deletion(parts: list[str], rng: random.Random) -> list[str]:
    """Some words left out with the space before them; a message keeps at least one."""
    words = _words(parts)
    for i in sorted(_some(words[1:], len(words), rng), reverse=True):
        del parts[i]
        if parts[i - 1].isspace():
            del parts[i - 1]
    return parts


def swap(parts: list[str], rng: random.Random) -> list[str]:
    """Some words exchanged with the next one."""
    words = _words(parts)
    for at in _some(range(len(words) - 1), len(words), rng):
        i, j = words[at], words[at + 1]
        parts[i], parts[j] = parts[j], parts[i]
    return parts


def typos(parts: list[str], rng: random.Random) -> list[str]:
    """In some words of four letters or more, two neighbours inside exchanged, or one of them lost or doubled."""
    long = [i for i in _words(parts) if len(parts[i]) >= 4]
    for i in _some(long, len(_words(parts)), rng):
        word, at = parts[i], rng.randrange(1, len(parts[i]) - 2)
        a, b = word[at], word[at + 1]
        parts[i] = word[:at] + rng.choice([b + a, a, a + a + b]) + word[at + 2 :]
    return parts


CHANGES: dict[str, Change] = {"synonyms": synonyms, "deletion": deletion, "swap": swap, "typos": typos}


def changes_named(names: Sequence[str]) -> list[str]:
    """The names of changes, some of which may be joined by commas. UserError for one that is not known."""
    wanted = [name.strip() for text in names for name in text.split(",") if name.strip()]
    for name in wanted:
        if name not in CHANGES:
            raise UserError(f"--augment {name}: known are {', '.join(CHANGES)}{suggest(name, CHANGES)}")
    return wanted


def augmented(chat: Chat, name: str, seed: int, number: int) -> Chat | None:
    """The conversation with other words in what the user says; None when nothing could be changed.

    number: of the conversation; with the seed and the name it decides all choices.
    """
    rng = random.Random(f"{seed} {number} {name}")
    messages = tuple(
        {**m, "content": "".join(CHANGES[name](pieces(m["content"]), rng))} if m["role"] == "user" else m
        for m in chat.messages
    )
    return None if messages == chat.messages else replace(chat, messages=messages, source=f"{chat.source} ({name})")


def _words(parts: Sequence[str]) -> list[int]:
    return [i for i, piece in enumerate(parts) if is_word(piece)]


def _some(places: Sequence[int], words: int, rng: random.Random) -> list[int]:
    """A tenth of the words, at least one, out of the places that can be changed."""
    return rng.sample(list(places), min(len(places), max(1, round(SHARE * words))))
