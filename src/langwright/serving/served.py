"""What is served under a name: a model, or an adapter on it, with its tokenizer and its template."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from langwright.adaptation.attached import BASE, attached, choose
from langwright.adaptation.folder import RECORD, load_adapter, tokenizer_folder
from langwright.base.errors import UserError
from langwright.base.files import read_object
from langwright.inference.constraints import Constraint
from langwright.inference.engine import Engine
from langwright.inference.prompts import padded, prompt_ids, source_ids
from langwright.inference.request import Request
from langwright.models.model import Model
from langwright.models.weights import weights_checksum
from langwright.pipelines.opening import Opening, check_vocabulary
from langwright.serving.answers import READ_SECONDS, Answer, Call
from langwright.serving.bodies import ChatBody, CompletionBody, Generation
from langwright.serving.body import LONGEST_TEXT
from langwright.serving.errors import RequestError
from langwright.serving.replies import ChatReply, CompletionReply, Envelope, Reply
from langwright.serving.tools import ToolForm
from langwright.serving.worker import Worker
from langwright.text.chat_template import ChatTemplate, own_template
from langwright.text.opening import load_tokenizer
from langwright.text.tokenizer import Tokenizer

EMBEDDED = 8
"""Texts of which vectors are made at once."""


@dataclass(frozen=True)
class Served:
    """A name that requests can ask for.

    Args:
        name: the name.
        worker: who owns the model.
        model: the model.
        tokenizer: of the model, or of the adapter.
        adapter: its name on the model.
        parent: the name of the model that an adapter is on.
    """

    name: str
    worker: Worker
    model: Model
    tokenizer: Tokenizer
    adapter: str = BASE
    parent: str | None = None

    @cached_property
    def template(self) -> ChatTemplate | None:
        """Of its folder; requests bring none."""
        return own_template(self.tokenizer, self.name)

    @cached_property
    def tools(self) -> ToolForm | None:
        """How its template has functions called."""
        return None if self.template is None else ToolForm.of(self.template)

    @property
    def writes(self) -> bool:
        """Whether it writes texts."""
        return self.worker.engine is not None

    @property
    def parts(self) -> "tuple[Served]":
        """The one model."""
        return (self,)

    @property
    def context(self) -> int | None:
        """The most tokens of the model."""
        return self.model.context

    @property
    def task(self) -> str:
        """What it is for: "chat", "text" where it has no chat template, or "embedding"."""
        if not self.writes:
            return "embedding"
        return "text" if self.tokenizer.config.get("chat_template") is None else "chat"

    def ids(self, text: str) -> list[int]:
        """Of a prompt."""
        if self.model.encoders:
            return source_ids(self.model, self.tokenizer, text)
        return prompt_ids(self.tokenizer, text)

    def check_texts(self, texts: Sequence[str | Sequence[int]]) -> None:
        """Refuse what is too long for the model whatever its tokens are, before time is spent on finding them."""
        for text in texts:
            if isinstance(text, str) and len(text) > self._most_characters:
                told = f"a text of {len(text):,} characters does not fit the model's context; at most"
                raise RequestError(400, f"{told} {self._most_characters:,} are read", "too_long")

    @cached_property
    def _most_characters(self) -> int:
        if self.model.context is None:
            return LONGEST_TEXT
        longest = max(len(self.tokenizer.token(id)) for id in range(self.tokenizer.vocab_size))
        return min(LONGEST_TEXT, self.model.context * longest)

    def echo(self, prompt: str | list[int]) -> tuple[str, list[int]]:
        """The text and the ids of a prompt."""
        return (prompt, self.ids(prompt)) if isinstance(prompt, str) else (self.tokenizer.decode(prompt), prompt)

    def completions(self, body: CompletionBody, **usual: Any) -> list[Request]:
        """What the engine is asked, for each prompt."""
        if body.echo and self.model.encoders:
            raise RequestError(400, f"echo: {self.name} writes no prompts", "invalid_field")
        scored = body.logprobs if body.echo else None
        more = self._more(**usual)
        self.check_texts(body.prompts)
        asked = body.request([], best_of=body.best_of, logprobs=body.logprobs, prompt_logprobs=scored, **more)
        prompts = [self.ids(prompt) if isinstance(prompt, str) else prompt for prompt in body.prompts]
        return [replace(asked, prompt=ids) for ids in prompts]

    def chat(self, body: ChatBody, **usual: Any) -> list[Request]:
        """What the engine is asked for the next answer."""
        shown = [tool.row() for tool in body.tools or ()] if body.callable else None
        ids = self.conversation_ids([message.row() for message in body.messages], shown)
        top = body.top_logprobs or 0
        body = body.model_copy(update={"max_tokens": body.max_completion_tokens or body.max_tokens})
        return [body.request(ids, logprobs=top if body.logprobs else None, **self._more(**usual))]

    def conversation_ids(self, rows: Sequence[dict[str, Any]], tools: Sequence[Any] | None = None) -> list[int]:
        """The ids after which the next answer is written."""
        if self.template is None:
            told = f"messages: {self.name} has no chat template; /v1/completions takes plain text"
            raise RequestError(400, told, "no_template")
        self.check_texts([self.template.marked(rows, tools, add_generation_prompt=True)])
        return self.template.prompt_ids(rows, tools)

    async def completed(self, body: CompletionBody, call: Call) -> Answer:
        """The answer to a request of /v1/completions."""
        scores = body.max_tokens == 0
        asked = body.model_copy(update={"max_tokens": 1}) if scores else body
        usual = await self._usual(body, call)
        requests = await call.front.do(partial(self.completions, asked, **usual), call.receive)
        echoes: list[tuple[str, list[int]]] = []
        if body.echo:
            echoes = await call.front.do(lambda: [self.echo(prompt) for prompt in body.prompts], call.receive)
        reply = CompletionReply(self.tokenizer, body.n, body.logprobs, echoes, written=not scores)
        return self._answer(body, call, requests, reply, Envelope("text_completion", "cmpl", self.name, body.usage))

    async def answered(self, body: ChatBody, call: Call) -> Answer:
        """The answer to a request of /v1/chat/completions."""
        usual = await self._usual(body, call)
        requests = await call.front.do(partial(self.chat, body, **usual), call.receive)
        reply = ChatReply(self.tokenizer, body.logprobs, self.tools if body.callable else None)
        return self._answer(body, call, requests, reply, Envelope("chat.completion", "chatcmpl", self.name, body.usage))

    async def _usual(self, body: CompletionBody | ChatBody, call: Call) -> dict[str, Any]:
        """What the engine is told of every request."""
        if not self.writes:
            raise RequestError(400, f"model: {self.name} makes vectors of texts, and writes none", "invalid_field")
        constraint = None
        if body.constraint is not None or (isinstance(body, ChatBody) and body.callable):
            constraint = await call.forms.do(partial(self.form, body), call.receive)
        return {"constraint": constraint, "deadline": call.deadline, "salt": call.salt}

    def _answer(
        self, body: Generation, call: Call, asked: Sequence[Request], reply: Reply, envelope: Envelope
    ) -> Answer:
        ended, seconds = partial(call.on_end, self.name), call.deadline + READ_SECONDS
        return Answer(self.worker, body, asked, reply, envelope, ended, seconds)

    async def vectors(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The vector of each text; those of a few are made side by side, in the thread that owns the model."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        few = [[rows[i] for i in order[start : start + EMBEDDED]] for start in range(0, len(rows), EMBEDDED)]
        made = await self.worker.calls([partial(self._vectors, one) for one in few], len(rows))
        found = dict(zip(order, chain.from_iterable(made), strict=True))
        return [found[i] for i in range(len(rows))]

    def _vectors(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        with torch.inference_mode():
            made: list[list[float]] = self.model(*padded(rows, self.model.device)).float().tolist()
        return made

    def form(self, body: CompletionBody | ChatBody) -> Constraint | None:
        """What the texts of a request are held to, read and tried. It takes time; the engine then takes none."""
        constraint, functions = body.constraint, body.callable if isinstance(body, ChatBody) else []
        if functions and isinstance(body, ChatBody):
            if self.tools is None:
                told = f"tools: the chat template of {self.name} writes no calls in a form that is known"
                raise RequestError(400, told, "no_tools")
            if constraint is not None:
                raise RequestError(400, "response_format: has no place beside tools", "invalid_field")
            forced = body.tool_choice not in (None, "auto")
            constraint = self.tools.constraint(functions, forced, body.parallel_tool_calls)
        if constraint is not None and self.worker.engine is not None:
            begun = self.worker.engine.constraints.begin(constraint)
            if not begun.allowed(self.tokenizer.vocab_size).any():
                constraint.refuse(begun.error or "no text has this form")
        return constraint

    def _more(self, constraint: Constraint | None, **usual: Any) -> dict[str, Any]:
        """What every request has: its form, and else the ends that an adapter's tokenizer has alone."""
        own = None if self.worker.engine is None else self.worker.engine.tokenizer
        ends = () if constraint is not None or own is None else tuple(set(self.tokenizer.ends) - set(own.ends))
        return {**usual, "constraint": constraint, "adapter": self.adapter, "stop_ids": ends}


def open_model(
    name: str,
    folder: Path,
    opening: Opening,
    batch: int,
    waiting: int,
    *,
    draft: Path | None = None,
    lookup: bool = False,
    longest: int | None = None,
    prompt_tokens: int = 512,
) -> Served:
    """A model folder under a name.

    Args:
        name: the name.
        folder: the folder.
        opening: how it is opened.
        batch: the most texts that are written side by side.
        waiting: how many more may wait.
        draft, lookup: see `Opening.speculation`.
        longest, prompt_tokens: see `Engine`.
    """
    model, tokenizer = opening.open(folder)
    if model.task == "embedding":
        return Served(name, Worker(None, batch, waiting), model, tokenizer)
    if not model.generates:
        raise UserError(f'{folder}: a model with the head "{model.task}" writes no texts and makes no vectors of them')
    guesses = opening.speculation(lookup, draft, tokenizer, batch)
    engine = Engine(model, tokenizer, batch=batch, longest=longest, prompt_tokens=prompt_tokens, speculation=guesses)
    return Served(name, Worker(engine, batch, waiting), model, tokenizer)


def open_adapter(name: str, folder: Path, base: Served, home: Path) -> Served:
    """An adapter under a name of its own. home: the folder of the model."""
    if not base.writes:
        raise UserError(f"--adapter {name}: {base.name} writes no texts")
    inner = f"adapter_{len(attached(base.model).adapters)}"
    load_adapter(base.model, folder, inner, base=home)
    choose(base.model, BASE)
    base.model.eval()
    tokenizer = load_tokenizer(tokenizer_folder(home, folder), base=home)
    check_vocabulary(base.model.vocabulary, tokenizer, folder)
    if tokenizer.vocab_size != base.tokenizer.vocab_size:
        raise UserError(f"--adapter {name}: {folder} has tokens of its own; merge it first (langwright merge)")
    return Served(name, base.worker, base.model, tokenizer, inner, base.name)


def belongs_to(folder: Path, homes: dict[str, Path]) -> str:
    """The name of the model that an adapter was trained over, told by the checksum of its weights."""
    if len(homes) == 1:
        return next(iter(homes))
    record = read_object(folder / RECORD, "the record of the adapter", optional=True)
    for name, home in homes.items():
        if record.get("base") is not None and weights_checksum(home) == record["base"]:
            return name
    raise UserError(f"--adapter {folder}: was trained over none of the models, or does not say over which")
