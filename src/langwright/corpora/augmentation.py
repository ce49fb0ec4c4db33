"""New wordings of the same question: synonyms, deletion, swaps and typos (EDA, Wei and Zou, 2019).

Of conversations only what a user says is changed, never an answer. All choices come from a seed and the number of the
conversation, or from a key.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from langwright.base.errors import UserError, suggest
from langwright.corpora.cleaning import is_word, pieces
from langwright.corpora.conversations import Chat

SHARE = 0.1
"""Of the words of a message that are changed, at least one."""

_GROUPS = (
    "big large, small little tiny, quick fast rapid, begin start, end finish, help assist, make create build, "
    "write compose, show display, find locate, explain clarify, describe depict, list enumerate, give provide, "
    "use employ, get obtain, choose select pick, change alter modify, fix repair mend, remove delete, add append, "
    "join combine, split divide, compute calculate, check verify, answer reply, question query, text passage, "
    "word term, example instance, way manner, part portion, kind type sort, error mistake, result outcome, "
    "number count, short brief, long lengthy, good fine, bad poor, hard difficult, easy simple, important key, "
    "correct right, wrong incorrect, old former, new recent, main chief, many numerous, also too, "
    "often frequently, about concerning, buy purchase, speak talk"
)
SYNONYMS = [group.split() for group in _GROUPS.split(",")]
"""Words that may stand for each other in most places; a small list of our own, in lower case."""

_OTHERS = {word: [other for other in group if other != word] for group in SYNONYMS for word in group}


def _synonym(parts: list[str], i: int, rng: random.Random) -> None:
    other = rng.choice(_OTHERS[parts[i].lower()])
    parts[i] = other.capitalize() if parts[i][0].isupper() else other


def _delete(parts: list[str], i: int, rng: random.Random) -> None:
    """Leave a word out, and the space before it."""
    parts[i] = ""
    if parts[i - 1].isspace():
        parts[i - 1] = ""


def _swap(parts: list[str], i: int, rng: random.Random) -> None:
    """Exchange a word with the next one."""
    j = next(j for j in range(i + 1, len(parts)) if is_word(parts[j]))
    parts[i], parts[j] = parts[j], parts[i]


def _misspell(parts: list[str], i: int, rng: random.Random) -> None:
    """Exchange two neighbours inside a word, or lose or double one of them."""
    word, at = parts[i], rng.randrange(1, len(parts[i]) - 2)
    a, b = word[at], word[at + 1]
    parts[i] = word[:at] + rng.choice([b + a, a, a + a + b]) + word[at + 2 :]


Places = Callable[[list[str], list[int]], list[int]]
Change = Callable[[list[str], int, random.Random], None]
CHANGES: dict[str, tuple[Places, Change]] = {
    "synonyms": (lambda parts, words: [i for i in words if parts[i].lower() in _OTHERS], _synonym),
    "deletion": (lambda parts, words: words[1:], _delete),
    "swap": (lambda parts, words: words[:-1], _swap),
    "typos": (lambda parts, words: [i for i in words if len(parts[i]) >= 4], _misspell),
}
"""Which of a message's words, by their numbers among its pieces, can be changed, and how one is."""


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
        {**m, "content": _changed(m["content"], name, rng)} if m["role"] == "user" else m for m in chat.messages
    )
    return None if messages == chat.messages else replace(chat, messages=messages, source=f"{chat.source} ({name})")


def varied(text: str, names: Sequence[str], key: str) -> str:
    """A text as it is, or with one of some changes; the key decides all choices."""
    rng = random.Random(key)
    name = rng.choice(["", *names])
    return _changed(text, name, rng) if name else text


def _changed(text: str, name: str, rng: random.Random) -> str:
    """A text of whose words a tenth, at least one, is changed where it can be."""
    places, change = CHANGES[name]
    parts = pieces(text)
    words = [i for i, piece in enumerate(parts) if is_word(piece)]
    possible = places(parts, words)
    for i in rng.sample(possible, min(len(possible), max(1, round(SHARE * len(words))))):
        change(parts, i, rng)
    return "".join(parts)
