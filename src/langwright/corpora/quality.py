"""What can be told of a conversation without a model: faults, and how much its answers say."""

import itertools
from collections.abc import Sequence

from langwright.corpora.conversations import Chat
from langwright.corpora.duplicates import SHINGLE, shingles
from langwright.corpora.words import words

FULL_ANSWER = 30
"""Words from which on an answer is not taken for too short to teach much."""


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
