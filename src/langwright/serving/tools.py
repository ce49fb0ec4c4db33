"""Calls of functions, in the form that a model's own chat template gives them.

The template is asked: it renders a conversation with two calls, and what it writes around them is the form. Marks that
are special tokens, and calls without a mark, are not understood; chatml, Qwen and Hermes write marks as text.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langwright.base.errors import UserError
from langwright.inference.constraints import Constraint
from langwright.serving.bodies import Function
from langwright.text.chat_template import ChatTemplate
from langwright.text.tokenizer import CONTROL

_ASKED, _NAME, _ARGUMENTS = "wherefore", "probed_function", {"therefore": "because"}
_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How `tojson` spaces what it writes."""


@dataclass(frozen=True)
class ToolForm:
    """What stands around the parts of a call: `begin head "name" middle {arguments} tail end`, `between` two calls."""

    begin: str
    head: str
    middle: str
    tail: str
    end: str
    between: str

    @classmethod
    def of(cls, template: ChatTemplate) -> "ToolForm | None":
        """That of a template; None where it has none that is understood."""
        call = {"id": "call_1", "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
        parameters = {"type": "object", "properties": {"therefore": {"type": "string"}}}
        tools = [{"type": "function", "function": {"name": "other", "description": "", "parameters": parameters}}]
        asked = {"role": "user", "content": _ASKED}
        answered = {"role": "assistant", "content": "", "tool_calls": [call, call]}
        result = {"role": "tool", "content": "", "name": _NAME, "tool_call_id": "call_1"}
        try:
            before = template.marked([asked], tools, add_generation_prompt=True)
            text = template.marked([asked, answered, result, result, asked], tools)
        except UserError:
            return None
        spans = [span for at in re.finditer(r"\{", text) if (span := _call_at(text, at.start()))]
        if not text.startswith(before) or len(spans) != 2 or "other" not in before:
            return None
        (start, stop), (second, last) = spans
        begin, gap, written = text[len(before) : start], text[stop:second], text[start:stop]
        if CONTROL in begin + gap or not begin.strip() or not gap.endswith(begin.lstrip()):
            return None
        end = _common(gap.removesuffix(begin.lstrip()), text[last:].partition(CONTROL)[0])
        head, _, rest = written.partition(json.dumps(_NAME))
        middle, _, tail = rest.partition(json.dumps(_ARGUMENTS))
        return cls(begin.lstrip(), head, middle, tail, end, gap.removeprefix(end).removesuffix(begin.lstrip()))

    def constraint(self, functions: Sequence[Function], forced: bool, parallel: bool) -> Constraint:
        """Calls of these functions, or text where none is forced; arguments fit the schema of their function."""
        mark, bodies = self.begin.rstrip(), []
        for function in functions:
            Constraint("json_schema", json.dumps(function.parameters, ensure_ascii=False))  # refused at the door
            schema = json.dumps({"x-guidance": _OPTIONS, **function.parameters}, ensure_ascii=False)
            opening = _quoted(self.begin[len(mark) :] + self.head + json.dumps(function.name) + self.middle)
            bodies.append(f"{opening} %json {schema} {_quoted(self.tail + self.end)}")
        more = f"({_quoted(self.between)} {_quoted(mark)} call)*" if parallel else ""
        lines = [f"body_{i}: {body}" for i, body in enumerate(bodies)]
        lines.append("call: " + " | ".join(f"body_{i}" for i in range(len(bodies))))
        if forced:
            lines.append(f"start: {_quoted(mark)} call {more}")
        else:
            lines += [f"start: TEXT | opened call {more}", f"opened[lazy]: TEXT {_quoted(mark)}", r"TEXT: /(.|\n)*/"]
        return Constraint("grammar", "\n".join(["%llguidance {}", *lines]))

    def before_calls(self, text: str) -> str:
        """What of the beginning of a text is said for certain, and is no part of a call."""
        mark = self.begin.rstrip()
        said = text.partition(mark)[0]
        held = next((n for n in range(min(len(mark) - 1, len(said)), 0, -1) if mark.startswith(said[-n:])), 0)
        return said[: len(said) - held].rstrip("\n")

    def parse(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """What is said, and the calls as OpenAI has them. A call that was cut off is text."""
        mark = self.begin.rstrip()
        said, *rest = text.split(mark)
        calls = []
        for part in rest:
            body = (mark + part).removeprefix(self.begin).strip().removesuffix(self.end.strip()).strip()
            try:
                called = list(json.loads(body).values())
                arguments = json.dumps(called[1], ensure_ascii=False)
                function = {"name": str(called[0]), "arguments": arguments}
            except (ValueError, IndexError, AttributeError, RecursionError):
                return text, []
            calls.append({"id": f"call_{secrets.token_hex(8)}", "type": "function", "function": function})
        return (said.rstrip("\n") if calls else said), calls


def _call_at(text: str, start: int) -> tuple[int, int] | None:
    """Where the JSON of the probed call that begins here lies."""
    try:
        value, stop = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None
    called = isinstance(value, dict) and list(value.values()) == [_NAME, _ARGUMENTS]
    return (start, stop) if called else None


def _common(first: str, second: str) -> str:
    """What two texts begin with."""
    return first[: next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))]


def _quoted(text: str) -> str:
    """A text in a grammar."""
    return json.dumps(text, ensure_ascii=False) if text else ""
