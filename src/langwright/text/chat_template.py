"""Chat templates: a conversation as one text, which of it is the assistant's own, and tokenizers made ready to chat."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, final

from langwright.base.errors import UserError
from langwright.base.files import read_text
from langwright.text.jinja import CLOSE, OPEN, compile_template
from langwright.text.tokenizer import CONTROL, Tokenizer, first_letters

Message = Mapping[str, Any]
"""`{"role": ..., "content": ...}`, with `tool_calls` where an assistant calls functions."""
Messages = Sequence[Message]
Tools = Sequence[Any] | None
"""Descriptions of functions that an assistant can call."""

ROLES = ("system", "user", "assistant", "tool")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "zephyr": (),
    "alpaca": (),
    "llama2": (),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
"""The templates that come with the package, and the special tokens each needs besides bos and eos."""

PAD = "<|pad|>"
"""The padding that a tokenizer gets whose padding is its stop, or which has none."""
LONGEST, PIECES = 1 << 26, 1 << 10
"""Characters that a template may write, and pieces of them that it is asked for at once."""
_TYPED = "\ufdd1"
"""Inside the name of a special token, says that people wrote it; a noncharacter of Unicode, as `CONTROL` is."""
_MARKS = re.compile(f"[{CONTROL}{_TYPED}]")


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
        text: what the template writes, `CONTROL` before each special token that is its own.
        answers: (start, end) of the assistant's words in characters, the stop included.
    """

    text: str
    answers: tuple[tuple[int, int], ...]


class Encoded(NamedTuple):
    """A conversation as ids. trained: true for the tokens of the assistant's words and for the stop after them."""

    ids: list[int]
    trained: list[bool]


@final
class ChatTemplate:
    """A Jinja template for conversations, in the form that `transformers` uses.

    source: the template. It sees `messages`, `tools`, `add_generation_prompt` and the tokenizer's special tokens by
    their names, such as `eos_token`. tokenizer: what makes ids of its text. where: for errors. name: for people.
    added: special tokens that the tokenizer got for it.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, where: str, name: str = "its own", added: tuple[str, ...] = ()
    ) -> None:
        """Compile the template; UserError where it is broken."""
        import jinja2

        self.source, self.tokenizer, self.name, self.added, self._where = source, tokenizer, name, added, where
        self._specials = [CONTROL + token for token in tokenizer.specials]
        self._typed = re.compile(first_letters(tokenizer.specials) or "(?!)")
        names = "|".join(map(re.escape, sorted(tokenizer.specials, key=len, reverse=True)))  # as a tokenizer finds them
        self._written = re.compile(f"(?:{names})(?!{_TYPED})" if names else "(?!)")
        try:
            self._template = compile_template(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{where}: the chat template is broken at its line {error.lineno}: {error}") from None

    def render(self, messages: Messages, tools: Tools = None, *, add_generation_prompt: bool = False) -> str:
        """The conversation as text, as `transformers` writes it.

        add_generation_prompt: end with what stands before an answer. Raises UserError where the template refuses the
        messages.
        """
        return self.marked(messages, tools, add_generation_prompt).replace(CONTROL, "")

    def answers(self, messages: Messages, tools: Tools = None, trained: Collection[int] | None = None) -> Rendered:
        """The conversation with the places of the assistant's words in the messages with the numbers `trained`, or all.

        They are the template's `{% generation %}` blocks. Where it has none, each answer is what its message adds to
        the text before it, which must stay as it is. Either way it ends with the special token that stops the model.
        Raises UserError where the template changes earlier text when a message is added, or never stops.
        """
        text = self.marked(messages, tools)
        marked = self.marked(messages, tools, mark_answers=True)
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        learnt = [i for i in answers if trained is None or i in trained]
        if OPEN not in marked:
            spans = [self._difference(text, messages, tools, i) for i in learnt]
        else:
            spans = self._marked_spans(marked)
            if learnt != answers:
                bounds = [(self._blocks(messages[:i], tools), self._blocks(messages[: i + 1], tools)) for i in learnt]
                spans = [span for start, stop in bounds for span in spans[start:stop]]
        return Rendered(text, tuple(self._with_stop(text, start, end) for start, end in spans if end > start))

    def encode(self, messages: Messages, tools: Tools = None, trained: Collection[int] | None = None) -> Encoded:
        """The ids of a whole conversation, and which of them are the assistant's; arguments as in `answers`.

        Nothing is added to what the template writes: a bos that it has is there once. A token that reaches over the end
        of an answer belongs to it. None reaches over its beginning: a tokenizer that would join the template's last
        blank to the first of the answer is asked for both apart, for a model that answers goes on from a prompt encoded
        by itself.
        """
        text, answers = self.answers(messages, tools, trained)
        ids, offsets = self.tokenizer.encode_marked(text)
        begins = {begin for begin, _ in answers if any(start < begin < end for start, end in offsets)}
        if begins:
            ids, offsets, kept = [], [], False
            for cut, until in pairwise([0, *sorted(begins), len(text)]):
                numbers, places = self.tokenizer.encode_marked(text[cut:until], inside=kept)
                ids += numbers
                offsets += [(cut + start, cut + end) for start, end in places]
                kept = bool(places) and places[-1][1] == until - cut  # T5's cuts blanks off the ends of a text
        return Encoded(ids, [any(start < last and end > begin for begin, last in answers) for start, end in offsets])

    def prompt_ids(self, messages: Messages, tools: Tools = None) -> list[int]:
        """The ids after which a model writes the next answer."""
        return self.tokenizer.encode_marked(self.marked(messages, tools, add_generation_prompt=True))[0]

    def stop(self) -> str:
        """The special token that ends an answer.

        Raises UserError for a template that leaves out what was said: Jinja writes a field of a wrong name as nothing.
        """
        asked, answered = "wherefore", "therefore"  # no template has words of these
        text, spans = self.answers([{"role": "user", "content": asked}, {"role": "assistant", "content": answered}])
        answer = "".join(text[start:end] for start, end in spans)
        for role, word, place in (("user", asked, text), ("assistant", answered, answer)):
            if word not in place:
                told = f"leaves out what the {role} says; a message has the fields role and content"
                raise UserError(f'{self._where}: the chat template {told}, and the assistant\'s role is "assistant"')
        return next(token.removeprefix(CONTROL) for token in self._specials if answer.endswith(token))

    def marked(
        self, messages: Messages, tools: Tools, add_generation_prompt: bool = False, mark_answers: bool = False
    ) -> str:
        """The conversation with `CONTROL` before each special token that the template wrote.

        The names of special tokens inside messages and tools are text: while the template runs, a character inside
        each keeps them apart.
        """
        try:
            text, pieces = (
                "",
                self._template.generate(
                    messages=self._as_text(messages),
                    tools=self._as_text(tools),
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    mark_answers=mark_answers,
                    **self.tokenizer.special_tokens.config(),
                ),
            )
            while some := "".join(islice(pieces, PIECES)):
                text += some
                if len(text) > LONGEST:
                    raise ValueError(f"it writes more than {LONGEST:,} characters")
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

    def _marked_spans(self, marked: str) -> list[tuple[int, int]]:
        """Where the marked answers lie in the text without the marks."""
        both = len(OPEN + CLOSE)
        found = re.finditer(f"{OPEN}.*?{CLOSE}", marked, re.DOTALL)
        spans = [(match.start() - i * both, match.end() - (i + 1) * both) for i, match in enumerate(found)]
        if len(spans) != marked.count(OPEN):
            raise UserError(f"{self._where}: a {{% generation %}} block of the chat template lies inside another")
        return spans

    def _blocks(self, messages: Messages, tools: Tools) -> int:
        """How many `{% generation %}` blocks the template writes for messages."""
        return self.marked(messages, tools, mark_answers=True).count(OPEN) if messages else 0

    def _difference(self, text: str, messages: Messages, tools: Tools, i: int) -> tuple[int, int]:
        """What the message of number `i` adds to the text before it."""
        before = self.marked(messages[:i], tools, add_generation_prompt=True)
        until = self.marked(messages[: i + 1], tools)
        if not (until.startswith(before) and text.startswith(until)):
            raise UserError(
                f"{self._where}: the chat template changes what stands before message {i + 1} when more is added, so "
                "that the assistant's words cannot be told; mark them with {% generation %}"
            )
        return len(before), len(until)

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


def own_template(tokenizer: Tokenizer, where: str) -> ChatTemplate | None:
    """The template that came with a tokenizer, of several the one called "default", or None.

    where: the folder, for errors.
    """
    source = tokenizer.config.get("chat_template")
    if isinstance(source, list):
        named = {row.get("name"): row.get("template") for row in source if isinstance(row, dict)}
        source = named.get("default", named)
    if source is None:
        return None
    if not isinstance(source, str):
        raise UserError(f'{where}: its chat template is neither a text nor a list of them with one called "default"')
    return ChatTemplate(source, tokenizer, where)


def template_source(name: str) -> str:
    """A template by its name in `TEMPLATES`, or the text of a file. UserError for neither."""
    path = Path(__file__).parent / "templates" / f"{name}.jinja" if name in TEMPLATES else Path(name)
    if not path.is_file():
        raise UserError(f"--template {name}: neither one of {', '.join(TEMPLATES)} nor a file with a Jinja template")
    return read_text(path, "the chat template")


def set_up_chat(tokenizer: Tokenizer, name: str | None, may_grow: bool, where: str) -> ChatTemplate:
    """Choose a template and fit the tokenizer to it: its `ends` are the ids after which an answer is over.

    name: one of `TEMPLATES`, or a file; without it the tokenizer's own template, else chatml where its special tokens
    are known, else zephyr, whose marks are plain text. may_grow: whether special tokens may be added, so that the
    model's tables grow. where: the folder, for errors.

    The stop becomes the tokenizer's eos unless the template itself writes eos. A pad that is the stop would teach a
    model never to stop: it is replaced by a new token where the vocabulary may grow, and given up elsewhere.
    Raises UserError for a template whose special tokens are missing and may not be added.
    """

    def missing(template: str) -> tuple[str, ...]:
        return tuple(token for token in TEMPLATES.get(template, ()) if token not in tokenizer.specials)

    own = None if name else own_template(tokenizer, where)
    chosen = name or ("its own" if own else "zephyr" if missing("chatml") else "chatml")
    added = missing(chosen)
    if added and not may_grow:
        raise UserError(
            f"--template {chosen}: needs the special tokens {', '.join(added)}, which {where} lacks "
            "and this method of tuning would not train; zephyr and alpaca need none, and --method full adds them"
        )
    source = own.source if own else template_source(chosen)
    where = where if own else f"--template {chosen}"
    special = tokenizer.special_tokens
    grown = tokenizer.extended(added, special, source)
    stop = ChatTemplate(source, grown, where).stop()
    eos = special.eos if "eos_token" in source and special.eos else stop
    pad = special.pad
    if pad in (None, eos, stop):
        pad = PAD if may_grow or PAD in grown.specials else None
        added += (PAD,) if pad and pad not in grown.specials else ()
    ends = [grown.encode_marked(CONTROL + token)[0][0] for token in (stop, eos, special.eos) if token is not None]
    ready = tokenizer.extended(added, replace(special, eos=eos, pad=pad), source, ends)
    return ChatTemplate(source, ready, where, chosen, added)
