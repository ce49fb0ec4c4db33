"""What people prefer: answers compared, ranked or judged, prompts, and the formats that the world writes them in."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import Any, TypeVar

from langwright.base.console import progress, warn
from langwright.base.errors import UserError
from langwright.corpora.conversations import Message, parse_cell, read_asked, read_messages
from langwright.corpora.files import find_files
from langwright.corpora.reading import ROWS, Row, name_list, read_rows, text_in
from langwright.corpora.splits import split_items

Asked = str | tuple[Message, ...]
"""What an answer follows: a text that it goes on with, or a conversation."""
T = TypeVar("T", bound="Item")

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""Before what each of the two says in the transcripts of Anthropic's data."""
ANSWERS = ("completion", "response", "output", "answer")
"""Fields of one answer; the first that is there is taken."""
JUDGEMENTS = ("label", "kto_tag")
"""Fields that say whether an answer is good."""
MESSAGES = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
"""The fields of a message."""
FIELDS = ("prompt", "chosen", "rejected", "margin", "answers", *ANSWERS, *JUDGEMENTS, "question", "messages",
          "conversations", "instruction", "input", "system", "history")  # fmt: skip
"""The fields of a row that are read."""


@dataclass(frozen=True)
class Item:
    """Something about one prompt.

    Args:
        prompt: what is answered: a text that an answer goes on with, or a conversation.
    """

    prompt: Asked

    @property
    def key(self) -> str:
        """The prompt as text: what is about one prompt is on one side of a split."""
        return json.dumps(self.prompt, sort_keys=True, ensure_ascii=False)

    @property
    def content(self) -> str:
        """All of it but where it is from."""
        values = [getattr(self, one.name) for one in fields(self) if one.name != "source"]
        return json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Preference(Item):
    """Two answers, of which one is better.

    Args:
        chosen: the better one.
        rejected: the other.
        margin: how much better, in units of the reward; 0 where nothing is said.
        source: the file and the row.
    """

    chosen: str
    rejected: str
    margin: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Ranking(Item):
    """Several answers in order.

    Args:
        answers: the best one first; two at least.
        source: the file and the row.
    """

    answers: tuple[str, ...]
    source: str = ""


@dataclass(frozen=True)
class Judged(Item):
    """One answer, good or bad.

    Args:
        answer: the answer.
        good: whether it is.
        source: the file and the row.
    """

    answer: str
    good: bool
    source: str = ""


@dataclass(frozen=True)
class Prompt(Item):
    """A prompt, with an answer where there is one: that to compare others with, or one to score.

    Args:
        answer: None where there is none.
        source: the file and the row.
        row: all fields of the row, for rewards that look at them; see `open_prompts`.
    """

    answer: str | None = None
    source: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


class UnfitError(UserError):
    """A row from which nothing can be learnt: its answers are equal, or one is empty."""


@dataclass(frozen=True)
class Preferences:
    """The rows of a file, and where they came from; all of them are in memory."""

    spec: str
    items: Sequence[Any]

    def record(self) -> dict[str, Any]:
        """What identifies the rows; see docs/formats.md."""
        content, size = hashlib.sha256(), 0
        for item in self.items:
            data = item.content.encode()
            content.update(len(data).to_bytes(8, "little") + data)
            size += len(data)
        counts = {"documents": len(self.items), "bytes": size, "hash": content.hexdigest()}
        return {"name": self.spec, "kind": "preferences", **counts}

    def split(self, split: str) -> tuple[list[Any], list[Any]]:
        """The rows to train on and those held out, all rows of a prompt on one side; see `split_items`."""
        return split_items(self.items, split, lambda item: item.key, spec=self.spec, what="rows", grouped=True)

    def compared(self) -> "Preferences":
        """The same as pairs and rankings; UserError where a row compares nothing."""
        return self._as((Preference, Ranking), "chosen with rejected, or answers with the best one first")

    def pairs(self) -> "Preferences":
        """The same as pairs; a ranking gives each pair of its answers."""
        items = [pair for item in self.compared().items for pair in _pairs(item)]
        return Preferences(self.spec, items)

    def judged(self) -> "Preferences":
        """The same as answers that are good or bad; of a pair the better one is good, and the other bad."""
        needed = "completion with label, or chosen with rejected"
        items = [one for item in self._as((Judged, Preference), needed).items for one in _judged(item)]
        return Preferences(self.spec, items)

    def prompts(self) -> "Preferences":
        """The prompts alone, each once, with the answers to compare others with."""
        found = {item.key: Prompt(item.prompt, getattr(item, "answer", None), item.source) for item in self.items}
        return Preferences(self.spec, list(found.values()))

    def _as(self, kinds: tuple[type, ...], needed: str) -> "Preferences":
        for item in self.items:
            if not isinstance(item, kinds):
                raise UserError(f"{item.source}: has {type(item).__name__.lower()} data; needed are {needed}")
        return self


def open_preferences(spec: str, skip: bool = False) -> Preferences:
    """Read all rows of a file, folder, glob or data set of the Hub; the fields of each row tell its format.

    Args:
        spec: the files; see `find_files`.
        skip: leave out rows from which nothing can be learnt, and count them in a warning; else they are errors.

    Raises:
        UserError: Names file and row of what cannot be read.
    """
    return Preferences(spec, read_items(spec, read_preference, skip))


def open_prompts(spec: str, skip: bool = False) -> Preferences:
    """The prompts of all rows, each once, with all fields of the first row that has it; as for `open_preferences`.

    Where there is an answer to compare others with, it is the field "answer", whatever it is called.
    """

    def read(row: Row) -> Prompt:
        if {"chosen", "rejected"} <= row.values.keys():
            return Prompt(read_preference(row).prompt, None, row.source, row.values)
        found = read_prompt(row)
        values = row.values if found.answer is None else {"answer": found.answer, **row.values}
        return Prompt(found.prompt, found.answer, row.source, values)

    items: dict[str, Prompt] = {}
    for item in read_items(spec, read, skip, None):
        items.setdefault(item.key, item)
    return Preferences(spec, list(items.values()))


def read_items(
    spec: str, read: Callable[[Row], T], skip: bool | None = False, columns: Sequence[str] | None = FIELDS
) -> list[T]:
    """What a function makes of each row of a file, folder or glob; `skip` as for `open_preferences`.

    skip: None where nobody can ask for it. columns: those that are read; all if None.
    """
    items: list[T] = []
    left: list[str] = []
    with progress(f"reading {spec}", None, "rows") as advance:
        for path in find_files(spec, ROWS):
            for row in read_rows(path, columns):
                try:
                    items.append(read(row))
                except UnfitError as error:
                    if not skip:
                        raise UserError(f"{error}{'' if skip is None else '; --skip leaves such rows out'}") from None
                    left.append(str(error))
                advance(1)
    if left:
        warn(f"{len(left):,} rows are left out, first {left[0]}")
    if not items:
        raise UserError(f"{spec}: there is no row in it")
    return items


def read_preference(row: Row, equal: bool = False) -> Any:
    """Read a row as a preference, a ranking, a judged answer or a prompt, whatever its format.

    `chosen` with `rejected`, and `prompt` unless both begin with it; or `answers`, the best one first; or `completion`
    with `label`; or none of these. A prompt and an answer are texts or messages; the prompt of a conversation may be in
    `conversations` (ShareGPT) or `instruction` (Alpaca) instead; transcripts of Anthropic's data are cut at their last
    "\\n\\nAssistant:".

    Args:
        row: the row.
        equal: whether answers may be equal, which say nothing of what is better.

    Raises:
        UserError: Names file and row of what cannot be read; `UnfitError` where nothing can be learnt of it.
    """
    where, values = row.source, {name: value for name, value in row.values.items() if value is not None}
    row = Row(values, where)
    if {"chosen", "rejected"} <= values.keys():
        prompt, chosen, rejected = _pair(row)
        if chosen == rejected and not equal:
            raise UnfitError(f"{where}: chosen and rejected are equal")
        return Preference(_prompt(prompt, where), chosen, rejected, _number(values.get("margin", 0.0), where), where)
    if "answers" in values:
        answers = parse_cell(values["answers"], where)
        if not isinstance(answers, list) or len(answers) < 2:
            raise UserError(f'{where}: "answers" must be a list of two or more, the best one first')
        texts = tuple(_answer(answer, "answers", where) for answer in answers)
        if len(set(texts)) < len(texts) and not equal:
            raise UnfitError(f"{where}: two of the answers are equal")
        return Ranking(_prompt(_asked(row), where), texts, where)
    label = next((values[name] for name in JUDGEMENTS if name in values), None)
    if label is not None:
        return Judged(*_answered(row), _truth(label, where), where)
    return read_prompt(row)


def read_prompt(row: Row) -> Prompt:
    """Read a row as a prompt, with an answer where there is one; fields and errors as for `read_preference`."""
    if "messages" in row.values and "prompt" not in row.values:
        said = read_messages(row.values["messages"], "messages", row.source)
        answered = bool(said) and said[-1]["role"] == "assistant"
        answer = str(said[-1]["content"]) if answered else None
        return Prompt(_prompt(said[: len(said) - answered], row.source), answer, row.source)
    field = next((name for name in ANSWERS if row.values.get(name) is not None), None)
    answer = None if field is None else _answer(row.values[field], field, row.source)
    return Prompt(_prompt(_asked(row), row.source), answer, row.source)


def _answered(row: Row) -> tuple[Asked, str]:
    """A prompt and its one answer."""
    found = read_prompt(row)
    if found.answer is None:
        told = f"no answer in the fields {name_list(row.values)}; it is in one of {name_list(ANSWERS)}"
        raise UserError(f"{row.source}: {told}")
    return found.prompt, found.answer


def _pair(row: Row) -> tuple[Asked, str, str]:
    """The prompt and both answers of a row with `chosen` and `rejected`."""
    values, where = row.values, row.source
    chosen, rejected = (_parsed(values[name], where) for name in ("chosen", "rejected"))
    if any(name in values for name in ("prompt", "question", "conversations", "instruction")):
        return _asked(row), _answer(chosen, "chosen", where), _answer(rejected, "rejected", where)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if ASSISTANT in chosen and ASSISTANT in rejected:
            (before, _, first), (other, _, second) = (text.rpartition(ASSISTANT) for text in (chosen, rejected))
            if before != other:
                raise UnfitError(f"{where}: chosen and rejected answer different conversations")
            if HUMAN in first + second:
                raise UnfitError(f"{where}: chosen and rejected must end with what the assistant says")
            return (
                _transcript(before),
                _answer(first.strip(), "chosen", where),
                _answer(second.strip(), "rejected", where),
            )
        if chosen == rejected:
            raise UnfitError(f"{where}: chosen and rejected are equal")
        at = _answer_start(chosen, rejected)
        return chosen[:at], _answer(chosen[at:], "chosen", where), _answer(rejected[at:], "rejected", where)
    good, bad = (read_messages(side, name, where) for side, name in ((chosen, "chosen"), (rejected, "rejected")))
    if not good or not bad or good[:-1] != bad[:-1]:
        raise UnfitError(f"{where}: chosen and rejected answer different conversations")
    return good[:-1], _answer([good[-1]], "chosen", where), _answer([bad[-1]], "rejected", where)


def _answer_start(chosen: str, rejected: str) -> int:
    """Where the answers begin behind a prompt that both have: a word belongs to them as a whole, and so does its blank.

    In scripts without blanks they begin with the first character that differs.
    """
    both = enumerate(zip(chosen, rejected, strict=False))
    shared = next((n for n, (one, other) in both if one != other), min(len(chosen), len(rejected)))
    blanks = (n for n in range(shared, 0, -1) if chosen[n : n + 1].isspace() and rejected[n : n + 1].isspace())
    last = chosen[shared - 1 : shared]
    inside = last.islower() or last.isupper() or last.isdecimal()
    return next(blanks, 0 if inside else shared)


def _transcript(text: str) -> tuple[Message, ...]:
    """The messages of a transcript of Anthropic's data, up to the last answer."""
    messages: list[Message] = []
    for part in text.split(HUMAN):
        human, *answers = part.split(ASSISTANT)
        told = [("user" if messages or text.startswith(HUMAN) else "system", human)]
        messages += [
            {"role": role, "content": said.strip()}
            for role, said in (*told, *(("assistant", answer) for answer in answers))
            if said.strip()
        ]
    return tuple(messages)


def _asked(row: Row) -> Asked:
    """The prompt of a row."""
    values = row.values
    if isinstance(values.get("prompt"), list | str):
        prompt = _parsed(values["prompt"], row.source)
        if isinstance(prompt, str) and not values.get("system"):
            return text_in(prompt, "prompt", row.source)
        return read_asked(Row({**values, "prompt": prompt}, row.source))
    if "question" in values:
        return text_in(values["question"], "question", row.source)
    if "conversations" in values or "instruction" in values:
        return read_asked(row)
    if values.get("prompt") is not None:
        return text_in(values["prompt"], "prompt", row.source)  # which it is not
    raise UserError(
        f"{row.source}: no prompt in the fields {name_list(values)}; needed is prompt, conversations, or instruction"
    )


def _prompt(prompt: Asked, where: str) -> Asked:
    """A prompt in which something is asked."""
    if isinstance(prompt, str):
        empty = not prompt.strip()
    else:
        empty = not any(message["content"].strip() for message in prompt)
        if prompt and prompt[-1]["role"] == "assistant":
            raise UnfitError(f"{where}: the prompt ends with an answer of the assistant")
    if empty:
        raise UnfitError(f"{where}: the prompt is empty")
    return prompt


def _answer(value: Any, field: str, where: str) -> str:
    """An answer: a text, a number, or one message of the assistant."""
    value = _parsed(value, where)
    if isinstance(value, int | float) and not isinstance(value, bool):  # the result of a sum
        value = str(value)
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        said = read_messages(value, field, where)
        if len(said) != 1 or said[0]["role"] != "assistant":
            raise UserError(f'{where}: "{field}" must be one message of the assistant, not {len(said)}')
        value = said[0]["content"]
    text = text_in(value, field, where)
    if not text.strip():
        raise UnfitError(f'{where}: "{field}" is empty')
    return text


def _parsed(value: Any, where: str) -> Any:
    """Messages, where the cell of a table holds them as JSON; an answer that is other JSON is text."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    found = parse_cell(value, where)
    said = [found] if isinstance(found, dict) else found
    return said if isinstance(said, list) and said and all(map(_is_message, said)) else value


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and any(names <= value.keys() for names in MESSAGES)


def _truth(value: Any, where: str) -> bool:
    """A judgement."""
    found = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())
    if found is None:
        raise UserError(f"{where}: the label {value!r} is neither true nor false")
    return found


def _number(value: Any, where: str) -> float:
    """A margin."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise UserError(f"{where}: the margin {value!r} is not a number of 0 or more")
    return number


def _pairs(item: Any) -> Iterator[Preference]:
    if isinstance(item, Preference):
        yield item
    else:
        for better, worse in combinations(item.answers, 2):
            yield Preference(item.prompt, better, worse, 0.0, item.source)


def _judged(item: Any) -> Iterator[Judged]:
    if isinstance(item, Judged):
        yield item
    else:
        yield Judged(item.prompt, item.chosen, True, item.source)
        yield Judged(item.prompt, item.rejected, False, item.source)
