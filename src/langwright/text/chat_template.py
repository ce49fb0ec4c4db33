"""Chat templates: a conversation as one text, and which of its characters and tokens are the assistant's own."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, final

from langwright.base.errors import UserError
from langwright.text.jinja import CLOSE, OPEN, compile_template
from langwright.text.tokenizer import CONTROL, Tokenizer

Message = Mapping[str, Any]
"""`{"role": ..., "content": ...}`, with `tool_calls` where an assistant calls functions."""

ROLES = ("system", "user", "assistant", "tool")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "zephyr": (),
    "alpaca": (),
    "llama2": (),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
"""The templates that come with the package, and the special tokens each needs besides bos and eos."""

_PROBE = ("wherefore", "therefore")
"""A question and an answer that no template has words of."""
_CONTINUED = "\x02continued\x02 "
_TYPED = "\ufdd1"
"""Inside the name of a special token, says that people wrote it; a noncharacter of Unicode, as `CONTROL` is."""
_MARKS = re.compile(f"[{CONTROL}{_TYPED}]")


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: what the template writes, `CONTROL` before each special token that is its own.
        answers: (start, end) of the assistant's words in characters, the stop included.
    """

    text: str
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Encoded:
    """A conversation as ids. trained: true for the tokens of the assistant's words and for the stop after them."""

    ids: list[int]
    trained: list[bool]


@final
class ChatTemplate:
    """A Jinja template for conversations, in the form that `transformers` uses.

    source: the template. It sees `messages`, `tools`, `add_generation_prompt` and the special tokens by their names.
    tokens: those, such as `{"eos_token": "</s>"}`. specials: the text of every special token. where: for errors.
    """

    def __init__(
        self, source: str, tokens: Mapping[str, str], specials: Sequence[str] = (), where: str = "the chat template"
    ) -> None:
        """Compile the template; UserError where it is broken."""
        import jinja2

        self.source, self._tokens, self._where = source, dict(tokens), where
        self._specials = [CONTROL + token for token in specials]
        self._typed, self._written = _beginnings(specials), _names(specials)
        try:
            self._template = compile_template(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{where}: the chat template is broken at its line {error.lineno}: {error}") from None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final: bool = False,
    ) -> str:
        """The conversation as text, as `transformers` writes it.

        add_generation_prompt: end with what stands before an answer. continue_final: end inside the last message, so
        that it can be gone on with. Raises UserError where the template refuses the messages.
        """
        if not continue_final:
            return self.marked(messages, tools, add_generation_prompt).replace(CONTROL, "")
        if not messages or not isinstance(messages[-1].get("content"), str):
            raise UserError("there is no last message with a text to go on with")
        last = {**messages[-1], "content": messages[-1]["content"] + _CONTINUED}
        text = self.marked([*messages[:-1], last], tools).replace(CONTROL, "")
        at = text.rfind(_CONTINUED.strip())
        if at < 0:
            raise UserError(f"{self._where}: the template leaves out the end of the last message")
        return text[:at] if text.startswith(_CONTINUED, at) else text[:at].rstrip()

    def answers(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        trained: Collection[int] | None = None,
    ) -> Rendered:
        """The conversation with the places of the assistant's words in the messages with the numbers `trained`, or all.

        They are the template's `{% generation %}` blocks. Where it has none, each answer is what its message adds to
        the text before it, which must stay as it is. Either way it ends with the special token that stops the model.
        Raises UserError where the template changes earlier text when a message is added, or never stops.
        """
        text = self.marked(messages, tools)
        marked = self.marked(messages, tools, mark_answers=True)
        if OPEN in marked:
            spans = _marked_spans(marked)
            if trained is not None and any(
                m["role"] == "assistant" and i not in trained for i, m in enumerate(messages)
            ):
                bounds = [(self._blocks(messages[:i], tools), self._blocks(messages[: i + 1], tools)) for i in trained]
                spans = [span for start, stop in bounds for span in spans[start:stop]]
        else:
            spans = self._differences(text, messages, tools, trained)
        return Rendered(text, tuple(self._with_stop(text, start, end) for start, end in spans if end > start))

    def fault(self, words: str) -> UserError:
        """What to raise for something that this template does wrong."""
        return UserError(f"{self._where}: the chat template {words}")

    def marked(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        add_generation_prompt: bool = False,
        mark_answers: bool = False,
    ) -> str:
        """The conversation with `CONTROL` before each special token that the template wrote.

        The names of special tokens inside messages and tools are text: while the template runs, a character inside
        each keeps them apart.
        """
        try:
            text: str = self._template.render(
                messages=self._as_text(messages),
                tools=self._as_text(tools),
                documents=None,
                add_generation_prompt=add_generation_prompt,
                mark_answers=mark_answers,
                **self._tokens,
            )
        except Exception as error:  # whatever a template does to its data
            told = str(error).replace(_TYPED, "")
            raise UserError(f"{self._where}: the chat template refuses the messages: {told}") from None
        text = self._written.sub(rf"{CONTROL}\g<0>", text)
        return text.replace(_TYPED, "").replace(json.dumps(_TYPED)[1:-1], "")  # the second from JSON in ASCII

    def _as_text(self, value: Any) -> Any:
        """A value with a character inside the name of each special token."""
        match value:
            case str():
                return self._typed.sub(rf"\g<0>{_TYPED}", _MARKS.sub("", value))  # nobody can type a mark
            case Mapping():
                return {self._as_text(key): self._as_text(inner) for key, inner in value.items()}
            case list() | tuple():
                return [self._as_text(inner) for inner in value]
        return value

    def _blocks(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> int:
        """How many `{% generation %}` blocks the template writes for messages."""
        return self.marked(messages, tools, mark_answers=True).count(OPEN) if messages else 0

    def _differences(
        self, text: str, messages: Sequence[Message], tools: Sequence[Any] | None, trained: Collection[int] | None
    ) -> list[tuple[int, int]]:
        spans = []
        for i, message in enumerate(messages):
            if message["role"] == "assistant" and (trained is None or i in trained):
                before = self.marked(messages[:i], tools, add_generation_prompt=True)
                until = self.marked(messages[: i + 1], tools)
                if not (until.startswith(before) and text.startswith(until)):
                    raise UserError(
                        f"{self._where}: the chat template changes what stands before message {i + 1} when more is "
                        "added, so that the assistant's words cannot be told; mark them with {% generation %}"
                    )
                spans.append((len(before), len(until)))
        return spans

    def _with_stop(self, text: str, start: int, end: int) -> tuple[int, int]:
        """The span up to the special token that ends it, which may stand right after it."""
        inside = text[start:end].rstrip()
        for token in self._specials:
            if inside.endswith(token):
                return start, start + len(inside)
        for token in self._specials:
            if text.startswith(token, end):
                return start, end + len(token)
        raise UserError(
            f"{self._where}: no special token ends the assistant's words, so a model would never stop; "
            "let the template put eos_token after them"
        )


def _names(specials: Sequence[str]) -> re.Pattern[str]:
    """Matches the names of special tokens as a tokenizer does, the longest first, which people did not write."""
    longest = sorted(specials, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, longest))})(?!{_TYPED})" if specials else "(?!)")


def _beginnings(specials: Sequence[str]) -> re.Pattern[str]:
    """Matches the first character of each name of a special token, also where names overlap."""
    rests: dict[str, list[str]] = {}
    for token in specials:
        rests.setdefault(token[0], []).append(re.escape(token[1:]))
    return re.compile("|".join(f"{re.escape(c)}(?={'|'.join(ends)})" for c, ends in rests.items()) or "(?!)")


def _marked_spans(marked: str) -> list[tuple[int, int]]:
    """Where the marked answers lie in the text without the marks."""
    spans, length = [], 0
    for i, piece in enumerate(marked.split(OPEN)):
        inside, close, after = piece.partition(CLOSE)
        if i and not close:
            raise UserError("a {% generation %} block of the chat template lies inside another")
        if i:
            spans.append((length, length + len(inside)))
        length += len(inside) + len(after)
    return spans


def encode(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Any] | None = None,
    trained: Collection[int] | None = None,
) -> Encoded:
    """The ids of a whole conversation, and which of them are the assistant's; arguments as in `answers`.

    Nothing is added to what the template writes: a bos that it has is there once. A token that reaches over the end of
    an answer belongs to it. None reaches over its beginning: a tokenizer that would join the template's last blank to
    the first of the answer is asked for both apart, for a model that answers goes on from a prompt encoded by itself.
    """
    rendered = template.answers(messages, tools, trained)
    ids, offsets = tokenizer.encode_marked(rendered.text)
    begins = {begin for begin, _ in rendered.answers if any(start < begin < end for start, end in offsets)}
    if begins:
        cuts = [0, *sorted(begins), len(rendered.text)]
        ids, offsets, kept = [], [], False
        for cut, until in pairwise(cuts):
            numbers, places = tokenizer.encode_marked(rendered.text[cut:until], inside=kept)
            ids += numbers
            offsets += [(cut + start, cut + end) for start, end in places]
            kept = bool(places) and places[-1][1] == until - cut  # T5's cuts blanks off the ends of a text
    learnt = [any(start < last and end > begin for begin, last in rendered.answers) for start, end in offsets]
    return Encoded(ids, learnt)


def prompt_ids(
    template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Any] | None = None
) -> list[int]:
    """The ids after which a model writes the next answer."""
    return tokenizer.encode_marked(template.marked(messages, tools, add_generation_prompt=True))[0]


def own_template(tokenizer: Tokenizer, where: str, tools: bool = False) -> ChatTemplate | None:
    """The template that came with a tokenizer, or None.

    Of several it is the one called "default", or with `tools` the one called "tool_use". where: the folder, for errors.
    """
    source = tokenizer.chat_template
    if isinstance(source, list):
        named = {row.get("name"): row.get("template") for row in source if isinstance(row, dict)}
        source = named.get("tool_use", named.get("default")) if tools else named.get("default")
        if source is None:
            raise UserError(
                f'{where}: among its chat templates, {", ".join(map(str, named))}, none is called "default"'
            )
    if source is None:
        return None
    if not isinstance(source, str):
        raise UserError(f"{where}: the chat template in tokenizer_config.json is neither text nor a list of them")
    return template_for(source, tokenizer, where)


def built_in_source(name: str) -> str:
    """The source of one of `TEMPLATES`."""
    return (resources.files("langwright.text") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def choose_source(name: str) -> str:
    """A template by its name in `TEMPLATES`, or the text of a file. UserError for neither."""
    if name in TEMPLATES:
        return built_in_source(name)
    if Path(name).is_file():
        try:
            return Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: the chat template is not UTF-8 text: bad byte at offset {error.start}") from None
    raise UserError(f"--template {name}: neither one of {', '.join(TEMPLATES)} nor a file with a Jinja template")


def stop_token(template: ChatTemplate, specials: Sequence[str]) -> str:
    """The special token that ends an answer of this template.

    Raises UserError for a template that leaves out what was said: Jinja writes a field of a wrong name as nothing.
    """
    asked, answered = (
        {"role": role, "content": word} for role, word in zip(("user", "assistant"), _PROBE, strict=True)
    )
    rendered = template.answers([asked, answered])
    answer = "".join(rendered.text[start:end] for start, end in rendered.answers)
    for message, text in ((asked, rendered.text), (answered, answer)):
        if message["content"] not in text:
            raise template.fault(
                f"leaves out what the {message['role']} says; a message has the fields role and content, "
                'and the assistant\'s role is "assistant"'
            )
    return next(token for token in specials if answer.endswith(CONTROL + token))


def template_for(source: str, tokenizer: Tokenizer, where: str) -> ChatTemplate:
    """A template that knows the special tokens of a tokenizer. where: for errors."""
    return ChatTemplate(source, tokenizer.special_tokens.config(), tokenizer.specials, where)
