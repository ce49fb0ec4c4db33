"""Calls of functions: the form that a template gives them, what a text is held to, and how it is told."""

import json
from typing import Any

import pytest

from langwright.inference.constraints import Constraints, Matcher
from langwright.inference.request import Completion
from langwright.serving.bodies import Function
from langwright.serving.replies import ChatReply
from langwright.serving.tools import ToolForm
from langwright.text.chat_template import ChatTemplate, set_up_chat
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import raw_bytes
from text.published_templates import PUBLISHED  # type: ignore[import-not-found]

NUMBER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
ADD = Function(name="add", parameters=NUMBER)
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 12}}\n</tool_call>'


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    return set_up_chat(raw_bytes(), "chatml", may_grow=True, where="x")


@pytest.fixture(scope="module")
def form(template: ChatTemplate) -> ToolForm:
    found = ToolForm.of(template)
    assert found is not None
    return found


def test_templates_are_asked_for_their_form(form: ToolForm, template: ChatTemplate) -> None:
    assert form == ToolForm("<tool_call>\n", '{"name": ', ', "arguments": ', "}", "\n</tool_call>", "\n")
    assert ToolForm.of(ChatTemplate(PUBLISHED["qwen2.5"], template.tokenizer, "x")) == form
    for other in ("zephyr", "llama3", "alpaca"):
        assert ToolForm.of(set_up_chat(raw_bytes(), other, may_grow=True, where="x")) is None


def accepts(tokenizer: Tokenizer, form: ToolForm, text: str, **how: Any) -> bool | str:
    """Whether a text is whole in the form; or what of it was taken before it was no more."""
    matcher: Matcher = Constraints(tokenizer, False).begin(form.constraint([ADD, Function(name="wait")], **how))
    for number, token in enumerate(tokenizer.encode(text)):
        if not matcher.allowed(tokenizer.vocab_size)[token]:
            return text[:number]
        matcher.take(token)
    return matcher.complete


def test_texts_are_held_to_it(form: ToolForm, template: ChatTemplate) -> None:
    tokenizer = template.tokenizer
    auto: dict[str, Any] = {"forced": False, "parallel": True}
    for text in ("", "Hm <tool", CALL, f"Let me see.\n{CALL}", f"{CALL}\n{CALL}"):
        assert accepts(tokenizer, form, text, **auto) is True, text
    assert accepts(tokenizer, form, 'So: <tool_call>\n{"name": "sub', **auto) == 'So: <tool_call>\n{"name": "'
    assert (
        accepts(tokenizer, form, CALL.replace("12", '"12"'), **auto)
        == '<tool_call>\n{"name": "add", "arguments": {"a": '
    )
    assert accepts(tokenizer, form, f"{CALL}\n{CALL}", forced=False, parallel=False) == CALL
    assert accepts(tokenizer, form, "Let", forced=True, parallel=True) == ""
    assert accepts(tokenizer, form, f"{CALL}\n{CALL}", forced=True, parallel=True) is True


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Only words", "Only words", []),
        (f"Let me see.\n{CALL}", "Let me see.", [{"a": 12}]),
        (f"{CALL}\n{CALL.replace('12', '7')}", None, [{"a": 12}, {"a": 7}]),
        (f"Hm\n{CALL[:30]}", f"Hm\n{CALL[:30]}", []),
        ("a < b\n\n<tool", "a < b\n\n<tool", []),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_streamed_as_whole(
    form: ToolForm, template: ChatTemplate, text: str, content: str | None, calls: list[Any], step: int
) -> None:
    reply = ChatReply(template.tokenizer, False, form)
    whole = reply.choice(0, Completion(text, [], "end"))["message"]
    assert whole["content"] == content
    assert [json.loads(call["function"]["arguments"]) for call in whole.get("tool_calls", ())] == calls
    told = [one for at in range(0, len(text), step) for one in reply.piece(0, text[at : at + step], ())]
    assert told[0]["delta"] == {"role": "assistant", "content": ""}
    told += reply.last(0, Completion(text, [], "end"))
    assert "".join(one["delta"].get("content", "") for one in told) == (content or "")
    assert [json.loads(c["function"]["arguments"]) for one in told for c in one["delta"].get("tool_calls", ())] == calls
    assert told[-1]["finish_reason"] == ("tool_calls" if calls else "stop")
