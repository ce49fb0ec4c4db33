"""Conversations out of the formats that the world writes them in."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from langwright.base.console import progress
from langwright.base.errors import UserError
from langwright.corpora.document import Document
from langwright.corpora.reading import name_list
from langwright.corpora.rows import Row, read_rows
from langwright.corpora.splits import ContentSplit, SplitRule, is_validation, parse_split
from langwright.text.chat import ROLES

Message = dict[str, Any]

SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant", "bot": "assistant",
    "function_call": "assistant", "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""Who speaks in ShareGPT files."""

SPOKEN = ("content", "tool_calls", "reasoning_content", "thinking")
"""Of a message: what its author says, calls or thinks."""

INPUT = "\n\n### Input:\n"
"""Between the instruction and the input of an Alpaca row; the template `alpaca` knows it."""


@final
@dataclass(frozen=True)
class Chat:
    """One conversation.

    messages: `role` and `content`, and `tool_calls` where an assistant calls functions. source: file and row.
    tools: descriptions of functions, or None. first: answers before the message of this number are not trained on.
    """

    messages: tuple[Message, ...]
    source: str
    tools: tuple[Any, ...] | None = None
    first: int = 0

    def record(self) -> dict[str, Any]:
        """The conversation as a row of a `.jsonl` file, which is read back as the same."""
        messages = list(self.messages)
        told = {"prompt": messages[: self.first], "completion": messages[self.first :]}
        rest = {} if self.tools is None else {"tools": list(self.tools)}
        return {**(told if self.first else {"messages": messages}), **rest}

    @property
    def key(self) -> str:
        """The same text for the same conversation, wherever it came from."""
        return json.dumps([self.messages, self.tools, self.first], sort_keys=True, ensure_ascii=False)

    @property
    def prompt(self) -> str:
        """What is asked: everything but the answers that are trained on."""
        return "\n".join(m["content"] for i, m in enumerate(self.messages) if not self._is_answer(i))

    @property
    def answer(self) -> str:
        """The answers that are trained on."""
        return "\n".join(m["content"] for i, m in enumerate(self.messages) if self._is_answer(i))

    @property
    def is_silent(self) -> bool:
        """Whether no answer that is trained on says, calls or thinks anything."""
        answers = (message for i, message in enumerate(self.messages) if self._is_answer(i))
        values = (message.get(name) for message in answers for name in SPOKEN)
        return not any(value.strip() if isinstance(value, str) else value for value in values)

    def _is_answer(self, i: int) -> bool:
        return i >= self.first and self.messages[i]["role"] == "assistant"


@final
@dataclass(frozen=True)
class Chats:
    """Conversations and where they came from; all of them are in memory."""

    spec: str
    items: Sequence[Chat]

    @cached_property
    def _record(self) -> dict[str, Any]:
        content = hashlib.sha256()
        size = 0
        for chat in self.items:
            data = chat.key.encode()
            content.update(len(data).to_bytes(8, "little") + data)
            size += sum(len(m["content"].encode()) for m in chat.messages)
        return {
            "name": self.spec,
            "kind": "chats",
            "documents": len(self.items),
            "bytes": size,
            "hash": content.hexdigest(),
        }

    def record(self) -> dict[str, Any]:
        """What identifies the conversations; see docs/formats.md. bytes: of the messages' contents."""
        return dict(self._record)

    def split(self, split: SplitRule | str) -> tuple[list[Chat], list[Chat]]:
        """The conversations to train on and those held out: by content ("5%"), or the first and the last (0.9).

        Raises UserError when one side is empty.
        """
        chosen = parse_split(split) if isinstance(split, str) else split
        if isinstance(chosen, ContentSplit):
            held = [is_validation(Document(c.key, c.source), chosen.fraction, chosen.seed) for c in self.items]
        else:
            held = [i >= int(len(self.items) * chosen.fraction) for i in range(len(self.items))]
        training = [chat for chat, out in zip(self.items, held, strict=True) if not out]
        validation = [chat for chat, out in zip(self.items, held, strict=True) if out]
        if not training or not validation:
            sides = f"{len(training)} of {len(self.items)} conversations to train on"
            raise UserError(
                f"{self.spec}: the split {chosen} leaves {sides} and {len(validation)} to measure; "
                "--split 0.8 holds out the last fifth of them"
            )
        return training, validation


def open_chats(spec: str) -> Chats:
    """All conversations of a file, folder or glob; the fields of each row tell its format (see `read_chat`)."""
    with progress(f"reading {spec}", None, "conversations") as advance:
        items = []
        for row in read_rows(spec):
            items.append(read_chat(row))
            advance(1)
    if not items:
        raise UserError(f"{spec}: there is no conversation in it")
    return Chats(spec, items)


def read_chat(row: Row) -> Chat:
    """A row as a conversation, whatever its format.

    `messages` (role and content), `conversations` (ShareGPT: from and value), `instruction` with `output` (Alpaca, with
    `input`, `system` and `history`), `prompt` with `completion` or `response` (texts or messages). In the last, only
    the completion's answers are trained on.
    Raises UserError naming file and row: no such fields, an unknown role, no answer to learn from.
    """
    found = next((form for form in _FORMATS if set(form) <= row.values.keys()), None)
    if found is None:
        raise UserError(
            f"{row.source}: no conversation in the fields {name_list(row.values)}; needed are messages, conversations, "
            "instruction with output, or prompt with completion or response"
        )
    messages, first = _FORMATS[found](row)
    tools = _parsed(row.values.get("tools"))
    if tools is not None and not isinstance(tools, list):
        raise UserError(f'{row.source}: "tools" must be a list of function descriptions')
    if not any(message["role"] == "assistant" for message in messages[first:]):
        raise UserError(f"{row.source}: a conversation without an assistant turn, so there is nothing to learn from")
    chat = Chat(tuple(messages), row.source, tuple(tools) if tools else None, first)
    try:
        chat.key.encode()
    except UnicodeEncodeError:  # JSON escapes can spell it, and no encoding can carry it
        raise UserError(f"{row.source}: a message holds half a surrogate pair, which is not text; mend it") from None
    return chat


def _from_messages(row: Row) -> tuple[list[Message], int]:
    return _messages(row.values["messages"], row.source), 0


def _from_conversations(row: Row) -> tuple[list[Message], int]:
    turns = _list(row.values["conversations"], "conversations", row.source)
    if turns and isinstance(turns[0], dict) and "role" in turns[0]:
        messages = _messages(turns, row.source)
    else:
        messages = [_spoken(turn, i, row.source) for i, turn in enumerate(turns, start=1)]
    return [*_system(row), *messages], 0


def _from_instruction(row: Row) -> tuple[list[Message], int]:
    values = row.values
    asked = _text(values["instruction"], "instruction", row.source)
    more = _text(values.get("input") or "", "input", row.source)
    messages = _system(row)
    for turn in _list(values.get("history") or [], "history", row.source):
        if not (isinstance(turn, list) and len(turn) == 2):
            raise UserError(f'{row.source}: "history" must be a list of pairs, what was asked and what was answered')
        messages += [_said(role, _text(text, "history", row.source)) for role, text in zip(_PAIR, turn, strict=True)]
    messages.append(_said("user", asked + INPUT + more if more else asked))
    return [*messages, _said("assistant", _text(values["output"], "output", row.source))], 0


def _from_prompt(answer: str) -> Callable[[Row], tuple[list[Message], int]]:
    def read(row: Row) -> tuple[list[Message], int]:
        sides = []
        for name, role in (("prompt", "user"), (answer, "assistant")):
            value = _parsed(row.values[name])
            if isinstance(value, list) and all(isinstance(item, dict) for item in value):
                sides.append(_messages(value, row.source))
            else:
                sides.append([_said(role, _text(row.values[name], name, row.source))])
        return [*_system(row), *sides[0], *sides[1]], len(_system(row)) + len(sides[0])

    return read


_PAIR = ("user", "assistant")
_FORMATS: dict[tuple[str, ...], Callable[[Row], tuple[list[Message], int]]] = {
    ("messages",): _from_messages,
    ("conversations",): _from_conversations,
    ("instruction", "output"): _from_instruction,
    ("prompt", "completion"): _from_prompt("completion"),
    ("prompt", "response"): _from_prompt("response"),
}


def _messages(value: Any, where: str) -> list[Message]:
    return [_message(item, i, where) for i, item in enumerate(_list(value, "messages", where), start=1)]


def _message(item: Any, number: int, where: str) -> Message:
    if not isinstance(item, dict) or "role" not in item:
        raise UserError(f'{where}: message {number} must be an object with "role" and "content"')
    role = item["role"]
    if role not in ROLES:
        raise UserError(f'{where}: message {number} has the role "{role}"; known are {", ".join(ROLES)}')
    calls = _parsed(item.get("tool_calls"))
    content = item.get("content")
    if isinstance(content, list):  # the parts of a message, of which only text can be read
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise UserError(f"{where}: message {number} has parts that are no text")
        content = "".join(part["text"] for part in content)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise UserError(f'{where}: the "content" of message {number} is {type(content).__name__}, not text')
    kept = {k: v for k, v in item.items() if k not in ("role", "content", "tool_calls") and v is not None}
    return {"role": role, "content": content, **kept, **({"tool_calls": _calls(calls, number, where)} if calls else {})}


def _calls(calls: Any, number: int, where: str) -> list[Any]:
    """Calls of functions with their arguments as an object, which some write as its JSON."""
    made = []
    for call in _list(calls, "tool_calls", where):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or "name" not in function:
            raise UserError(f'{where}: message {number} has a tool call without a function\'s "name"')
        made.append({**call, "function": {**function, "arguments": _parsed(function.get("arguments", {}))}})
    return made


def _spoken(turn: Any, number: int, where: str) -> Message:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise UserError(f'{where}: turn {number} must be an object with "from" and "value"')
    if turn["from"] not in SPEAKERS:
        raise UserError(f'{where}: turn {number} is from "{turn["from"]}"; known are {", ".join(SPEAKERS)}')
    if turn["from"] == "function_call":
        call = _parsed(turn["value"])
        return _message({"role": "assistant", "content": "", "tool_calls": [{"function": call}]}, number, where)
    return _said(SPEAKERS[turn["from"]], _text(turn["value"], "value", where))


def _system(row: Row) -> list[Message]:
    text = _text(row.values.get("system") or "", "system", row.source)
    return [_said("system", text)] if text else []


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f'{where}: the field "{name}" is {type(value).__name__}, not text')
    return value


def _list(value: Any, name: str, where: str) -> list[Any]:
    parsed = _parsed(value)
    if not isinstance(parsed, list):
        raise UserError(f'{where}: "{name}" must be a list')
    return parsed


def _parsed(value: Any) -> Any:
    """A list or object that a table's cell holds as JSON; anything else is left as it is."""
    if isinstance(value, str) and value[:1] in "[{" and value:
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return value
    return value
