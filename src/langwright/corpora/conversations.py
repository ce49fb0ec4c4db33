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
from langwright.corpora.files import find_files
from langwright.corpora.reading import ROWS, Row, name_list, read_rows, text_in
from langwright.corpora.splits import ContentSplit, SplitRule, is_validation, parse_split
from langwright.text.chat_template import ROLES

Message = dict[str, Any]

SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant", "bot": "assistant",
    "function_call": "assistant", "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""Who speaks in ShareGPT files."""

SPOKEN = ("content", "tool_calls", "reasoning_content", "thinking")
"""Of a message: what its author says, calls or thinks."""

MARKS = ("weight", "train", "loss_mask")
"""Of an assistant's message: 0 or false in one of them keeps it out of the loss."""

INPUT = "\n\n### Input:\n"
"""Between the instruction and the input of an Alpaca row; the template `alpaca` knows it."""


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
        messages = list(self.messages)
        parts = {"prompt": messages[: self.first], "completion": messages[self.first :]}
        rest = {} if self.tools is None else {"tools": list(self.tools)}
        return {**(parts if self.first else {"messages": messages}), **rest}

    @property
    def key(self) -> str:
        """The same text for the same conversation, wherever it came from."""
        return json.dumps([self.messages, self.tools, self.first], sort_keys=True, ensure_ascii=False)

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """The numbers of the messages that are trained on."""
        numbered = enumerate(self.messages)
        return tuple(i for i, m in numbered if i >= self.first and m["role"] == "assistant" and _is_trained(m))

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
    found = next((form for form in _FORMATS if set(form) <= row.values.keys()), None)
    if found is None:
        raise UserError(
            f"{row.source}: no conversation in the fields {name_list(row.values)}; needed are messages, conversations, "
            "instruction with output, or prompt with completion or response"
        )
    messages, first = _FORMATS[found](row)
    tools = _list(row.values.get("tools"), "tools", row.source)
    chat = Chat(tuple(messages), row.source, tuple(tools) or None, first)
    if not chat.answers:
        raise UserError(f"{row.source}: a conversation without an assistant turn to learn from")
    text_in(chat.key, "messages", row.source)
    return chat


def _from_messages(row: Row) -> tuple[list[Message], int]:
    return _messages(row.values["messages"], "messages", row.source), 0


def _from_conversations(row: Row) -> tuple[list[Message], int]:
    turns = _list(row.values["conversations"], "conversations", row.source)
    if not (turns and isinstance(turns[0], dict) and "role" in turns[0]):
        turns = [_spoken(turn, i, row.source) for i, turn in enumerate(turns, start=1)]
    return [*_system(row), *_messages(turns, "conversations", row.source)], 0


def _from_instruction(row: Row) -> tuple[list[Message], int]:
    values = row.values
    asked, more = text_in(values["instruction"], "instruction", row.source), _optional(row, "input")
    messages = _system(row)
    for turn in _list(values.get("history"), "history", row.source):
        if not (isinstance(turn, list) and len(turn) == 2):
            raise UserError(f'{row.source}: "history" must be a list of pairs, a question and its answer')
        messages += [_said(role, text_in(text, "history", row.source)) for role, text in zip(_PAIR, turn, strict=True)]
    messages.append(_said("user", asked + INPUT + more if more else asked))
    return [*messages, _said("assistant", text_in(values["output"], "output", row.source))], 0


def _from_prompt(answer: str) -> Callable[[Row], tuple[list[Message], int]]:
    def read(row: Row) -> tuple[list[Message], int]:
        asked, answered = (
            _messages(value, name, row.source)
            if isinstance(value := row.values[name], list)
            else [_said(role, text_in(value, name, row.source))]
            for name, role in zip(("prompt", answer), _PAIR, strict=True)
        )
        before = [*_system(row), *asked]
        return [*before, *answered], len(before)

    return read


_PAIR = ("user", "assistant")
_FORMATS: dict[tuple[str, ...], Callable[[Row], tuple[list[Message], int]]] = {
    ("messages",): _from_messages,
    ("conversations",): _from_conversations,
    ("instruction", "output"): _from_instruction,
    ("prompt", "completion"): _from_prompt("completion"),
    ("prompt", "response"): _from_prompt("response"),
}
FIELDS = ("tools", "system", "input", "history", *dict.fromkeys(name for form in _FORMATS for name in form))
"""The fields of a row that are read."""


def _messages(value: Any, name: str, where: str) -> list[Message]:
    return [_message(item, i, where) for i, item in enumerate(_list(value, name, where), start=1)]


def _message(item: Any, number: int, where: str) -> Message:
    if not isinstance(item, dict) or "role" not in item:
        raise UserError(f'{where}: message {number} must be an object with "role" and "content"')
    role = item["role"]
    if role not in ROLES:
        raise UserError(f'{where}: message {number} has the role "{role}"; known are {", ".join(ROLES)}')
    for mark in MARKS:
        value = item.get(mark)
        if value is not None and (value not in (0, 1) or (value and role != "assistant")):
            raise UserError(
                f'{where}: message {number}, of the role {role}, has "{mark}": {value!r}; an assistant\'s message is '
                "trained on (1) or not (0), others never"
            )
    content = item.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise UserError(f"{where}: message {number} has parts that are no text")
        content = "".join(part["text"] for part in content)
    calls = _calls(item.get("tool_calls"), number, where)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise UserError(f'{where}: the "content" of message {number} is {type(content).__name__}, not text')
    kept = {k: v for k, v in item.items() if k not in ("role", "content", "tool_calls") and v is not None}
    return {"role": role, "content": content, **kept, **({"tool_calls": calls} if calls else {})}


def _calls(calls: Any, number: int, where: str) -> list[Any]:
    """Calls of functions with their arguments as an object, which some write as its JSON."""
    made = []
    for call in _list(calls, "tool_calls", where):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or "name" not in function:
            raise UserError(f'{where}: message {number} has a tool call without a function\'s "name"')
        made.append({**call, "function": {**function, "arguments": _parsed(function.get("arguments", {}), where)}})
    return made


def _spoken(turn: Any, number: int, where: str) -> Message:
    """A ShareGPT turn as a message."""
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise UserError(f'{where}: turn {number} must be an object with "from" and "value"')
    speaker, value = turn["from"], turn["value"]
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise UserError(f'{where}: turn {number} is from "{speaker}"; known are {", ".join(SPEAKERS)}')
    marks = {mark: turn[mark] for mark in MARKS if mark in turn}
    if speaker == "function_call":
        parsed = _parsed(value, where)
        calls = [{"function": call} for call in (parsed if isinstance(parsed, list) else [parsed])]
        return {**_said("assistant", ""), **marks, "tool_calls": calls}
    return {**_said(SPEAKERS[speaker], text_in(value, "value", where)), **marks}


def _is_trained(message: Message) -> bool:
    return all(message.get(mark) in (None, 1) for mark in MARKS)


def _system(row: Row) -> list[Message]:
    text = _optional(row, "system")
    return [_said("system", text)] if text else []


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _optional(row: Row, field: str) -> str:
    """A field of text, or nothing where it is absent or null."""
    value = row.values.get(field)
    return "" if value is None else text_in(value, field, row.source)


def _list(value: Any, name: str, where: str) -> list[Any]:
    """A list, which a table's cell holds as JSON; empty where it is absent, null or an empty cell."""
    parsed = [] if value is None or value == "" else _parsed(value, where)
    if not isinstance(parsed, list):
        raise UserError(f'{where}: "{name}" must be a list')
    return parsed


def _parsed(value: Any, where: str) -> Any:
    """What must be a list or an object, where a text holds it as JSON; any other text is left as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
        except (RecursionError, ValueError):
            raise UserError(f"{where}: JSON that is nested too deep, or an integer of more than 4,300 digits") from None
    return value
