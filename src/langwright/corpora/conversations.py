"""Conversations out of the formats that the world writes them in."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from langwright.base.console import progress
from langwright.base.errors import UserError
from langwright.corpora.files import find_files
from langwright.corpora.reading import ROWS, Row, name_list, read_rows, text_in
from langwright.corpora.splits import split_items
from langwright.text.chat_template import ROLES

Message = dict[str, Any]

SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""Who speaks in ShareGPT files, beside "function_call"."""

SPOKEN = ("content", "tool_calls", "reasoning_content", "thinking")
"""Of a message: what its author says, calls or thinks."""

MARKS = ("weight", "train", "loss_mask")
"""Of an assistant's message: 0 or false in one of them keeps it out of the loss."""

INPUT = "\n\n### Input:\n"
"""Between the instruction and the input of an Alpaca row; the template `alpaca` knows it."""

FIELDS = ("messages", "conversations", "instruction", "output", "prompt", "completion", "response",
          "tools", "system", "input", "history")  # fmt: skip
"""The fields of a row that are read."""


@final
@dataclass(frozen=True)
class Chat:
    """One conversation.

    Args:
        messages: Each has `role` and `content`, and `tool_calls` where an assistant calls functions.
        source: The file and the row.
        tools: Descriptions of functions, or None.
        first: Answers before the message of this number are not trained on.
    """

    messages: tuple[Message, ...]
    source: str
    tools: tuple[Any, ...] | None = None
    first: int = 0

    def record(self) -> dict[str, Any]:
        """The conversation as a row of a `.jsonl` file, which is read back as the same."""
        before, after = list(self.messages[: self.first]), list(self.messages[self.first :])
        parts = {"prompt": before, "completion": after} if before else {"messages": after}
        return parts if self.tools is None else {**parts, "tools": list(self.tools)}

    @property
    def key(self) -> str:
        """The same text for the same conversation, wherever it came from."""
        return json.dumps([self.messages, self.tools, self.first], sort_keys=True, ensure_ascii=False)

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """The numbers of the messages that are trained on."""
        said = [i for i, m in enumerate(self.messages) if i >= self.first and m["role"] == "assistant"]
        return tuple(i for i in said if all(self.messages[i].get(mark) in (None, 1) for mark in MARKS))

    @property
    def prompt(self) -> str:
        """What is asked: everything but the answers that are trained on."""
        return "\n".join(m["content"] for i, m in enumerate(self.messages) if i not in self.answers)

    @property
    def answer(self) -> str:
        """The answers that are trained on."""
        return "\n".join(self.messages[i]["content"] for i in self.answers)

    @property
    def is_silent(self) -> bool:
        """Whether no answer that is trained on says, calls or thinks anything."""
        values = (self.messages[i].get(name) for i in self.answers for name in SPOKEN)
        return not any(value.strip() if isinstance(value, str) else value for value in values)


@final
@dataclass(frozen=True)
class Chats:
    """Conversations and where they came from; all of them are in memory."""

    spec: str
    items: Sequence[Chat]

    def record(self) -> dict[str, Any]:
        """What identifies the conversations; see docs/formats.md. bytes: of the messages' contents."""
        content = hashlib.sha256()
        for chat in self.items:
            data = chat.key.encode()
            content.update(len(data).to_bytes(8, "little") + data)
        size = sum(len(m["content"].encode()) for chat in self.items for m in chat.messages)
        counts = {"documents": len(self.items), "bytes": size, "hash": content.hexdigest()}
        return {"name": self.spec, "kind": "chats", **counts}

    def split(self, split: str) -> tuple[list[Chat], list[Chat]]:
        """The conversations to train on and those held out: by content ("5%"), or the first and the last (0.9).

        Raises UserError when one side is empty.
        """
        return split_items(self.items, split, lambda chat: chat.key, spec=self.spec, what="conversations")


def open_chats(spec: str) -> Chats:
    """Read all conversations of a file, folder or glob; the fields of each row tell its format (see `read_chat`)."""
    with progress(f"reading {spec}", None, "conversations") as advance:
        items = []
        for path in find_files(spec, ROWS):
            for row in read_rows(path, FIELDS):
                items.append(read_chat(row))
                advance(1)
    if not items:
        raise UserError(f"{spec}: there is no conversation in it")
    return Chats(spec, items)


def read_chat(row: Row) -> Chat:
    """Read a row as a conversation, whatever its format.

    `messages` (role and content), `conversations` (ShareGPT: from and value), `instruction` with `output` (Alpaca, with
    `input`, `system` and `history`), `prompt` with `completion` or `response` (texts or messages). In the last, only
    the completion's answers are trained on.

    Raises:
        UserError: Names file and row: no such fields, an unknown role, no answer to learn from.
    """
    where, first = row.source, 0
    match row.values:
        case {"messages": turns}:
            said = _list(turns, "messages", where)
        case {"conversations": turns}:
            said = [*_system(row), *_turns(turns, "conversations", where)]
        case {"instruction": _, "output": answer}:
            said = [*_instructed(row), _said("assistant", answer)]
        case {"prompt": asked, "completion": answer} | {"prompt": asked, "response": answer}:
            before = [*_system(row), *(asked if isinstance(asked, list) else [_said("user", asked)])]
            first = len(before)
            said = [*before, *(answer if isinstance(answer, list) else [_said("assistant", answer)])]
        case _:
            raise UserError(
                f"{where}: no conversation in the fields {name_list(row.values)}; needed are messages, conversations, "
                "instruction with output, or prompt with completion or response"
            )
    chat = Chat(_messages(said, where), where, tuple(_list(row.values.get("tools"), "tools", where)) or None, first)
    if not chat.answers:
        raise UserError(f"{where}: a conversation without an assistant turn to learn from")
    text_in(chat.key, "messages", where)
    return chat


def read_asked(row: Row) -> tuple[Message, ...]:
    """What an answer follows in a row: a conversation of any format up to there.

    Its fields are `prompt` (a text, or messages), `conversations`, or `instruction` with `input`, `history`; and
    `system`.

    Raises:
        UserError: Names file and row.
    """
    match row.values:
        case {"conversations": turns}:
            said = [*_system(row), *_turns(turns, "conversations", row.source)]
        case {"instruction": _}:
            said = _instructed(row)
        case {"prompt": asked}:
            turns = [_said("user", asked)] if isinstance(asked, str) else _turns(asked, "prompt", row.source)
            said = [*_system(row), *turns]
        case _:
            raise UserError(f"{row.source}: nothing is asked in the fields {name_list(row.values)}")
    return _messages(said, row.source)


def read_messages(value: Any, field: str, where: str) -> tuple[Message, ...]:
    """Messages in a field of a row, by role and content or from and value; UserError that names file and row."""
    return _messages(_turns(value, field, where), where)


def _messages(said: Sequence[Any], where: str) -> tuple[Message, ...]:
    return tuple(_message(item, f"{where}: message {i}") for i, item in enumerate(said, start=1))


def _turns(value: Any, field: str, where: str) -> list[Any]:
    return [_spoken(turn, i, where) for i, turn in enumerate(_list(value, field, where), start=1)]


def _instructed(row: Row) -> list[Message]:
    """What comes before the answer of an Alpaca row."""
    where, more = row.source, _optional(row, "input")
    asked = text_in(row.values["instruction"], "instruction", where) + (INPUT + more if more else "")
    history = _list(row.values.get("history"), "history", where)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError(f'{where}: "history" must be a list of pairs, a question and its answer')
    turns = [_said(*turn) for pair in history for turn in zip(("user", "assistant"), pair, strict=True)]
    return [*_system(row), *turns, _said("user", asked)]


def _said(role: str, content: Any) -> Message:
    return {"role": role, "content": content}


def _spoken(turn: Any, number: int, where: str) -> Any:
    """A ShareGPT turn as a message; what has a role is one already."""
    match turn:
        case {"role": _}:
            return turn
        case {"from": "function_call", "value": value}:
            calls = parse_cell(value, where)
            calls = [{"function": call} for call in (calls if isinstance(calls, list) else [calls])]
            message = {**_said("assistant", ""), "tool_calls": calls}
        case {"from": str(speaker), "value": value} if speaker in SPEAKERS:
            message = _said(SPEAKERS[speaker], value)
        case _:
            raise UserError(f'{where}: turn {number} needs "value" and "from", one of {", ".join(SPEAKERS)}')
    return message | {mark: turn[mark] for mark in MARKS if mark in turn}


def _message(item: Any, where: str) -> Message:
    """A message as its author meant it: parts of text joined, calls of functions as objects, nothing that is null."""
    if not isinstance(item, dict) or item.get("role") not in ROLES:
        raise UserError(f'{where} must be an object with "content" and "role", one of {", ".join(ROLES)}')
    role, content = item["role"], item.get("content")
    for mark in MARKS:
        value = item.get(mark)
        if value is not None and (value not in (0, 1) or (value and role != "assistant")):
            raise UserError(f'{where}, of the role {role}, has "{mark}": {value!r}; only an assistant\'s has 1, or 0')
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    calls = [_call(call, where) for call in _list(item.get("tool_calls"), "tool_calls", where)]
    if not isinstance(content, str) and not (content is None and calls):
        raise UserError(f'{where}: its "content" is {type(content).__name__}, not text')
    kept = {name: value for name, value in item.items() if value is not None and name != "tool_calls"}
    return {**kept, "content": content or "", **({"tool_calls": calls} if calls else {})}


def _call(call: Any, where: str) -> Any:
    """The call of a function with its arguments as an object, which some write as its JSON."""
    match call:
        case {"function": {"name": _} as function}:
            return {**call, "function": {**function, "arguments": parse_cell(function.get("arguments", {}), where)}}
    raise UserError(f'{where} has a tool call without a function\'s "name"')


def _system(row: Row) -> list[Message]:
    text = _optional(row, "system")
    return [_said("system", text)] if text else []


def _optional(row: Row, field: str) -> str:
    """A field of text, or nothing where it is absent or null."""
    value = row.values.get(field)
    return "" if value is None else text_in(value, field, row.source)


def _list(value: Any, name: str, where: str) -> list[Any]:
    """A list, which a table's cell holds as JSON; empty where it is absent, null or an empty cell."""
    parsed = [] if value is None or value == "" else parse_cell(value, where)
    if not isinstance(parsed, list):
        raise UserError(f'{where}: "{name}" must be a list')
    return parsed


def parse_cell(value: Any, where: str) -> Any:
    """What must be a list or an object, where a text holds it as JSON; any other text is left as it is."""
    try:
        return json.loads(value) if isinstance(value, str) and value.lstrip()[:1] in ("[", "{") else value
    except json.JSONDecodeError:
        return value
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where}: JSON that cannot be read: {error}") from None
