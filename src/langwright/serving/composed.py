"""Cascades and routers served by a name: several models of which each request asks one after the other, or one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from langwright.base.errors import UserError
from langwright.inference.request import Completion
from langwright.pipelines.cascade import (
    Asking,
    Cascade,
    Stage,
    advance,
    answer_from,
    open_cascade,
    requests_for,
)  # fmt: skip
from langwright.pipelines.cascade import Reply as Found
from langwright.pipelines.opening import Opening
from langwright.pipelines.scorers import Answer
from langwright.serving.answers import READ_SECONDS, Call, check, events
from langwright.serving.beside import stay
from langwright.serving.bodies import ChatBody, CompletionBody
from langwright.serving.errors import RequestError
from langwright.serving.replies import ChatReply, CompletionReply, Envelope, Reply, usage
from langwright.serving.served import Served

HONOURED = {
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options", "seed",
}  # fmt: skip
"""Fields of a request that several models can keep to. A seed is kept to by greedy answers whatever it is."""


@dataclass(frozen=True)
class ServedCascade:
    """A name behind which several models answer, each with an engine that other requests share.

    Args:
        name: the name.
        cascade: who is asked when.
        parts: the models, by their numbers in the cascade.
    """

    name: str
    cascade: Cascade
    parts: tuple[Served, ...]
    parent: None = None

    @property
    def task(self) -> str:
        """What it is: "cascade" or "router"."""
        return self.cascade.settings.kind

    @property
    def context(self) -> int | None:
        """The most tokens that every one of its models reads and writes."""
        return min((part.context for part in self.parts if part.context is not None), default=None)

    async def completed(self, body: CompletionBody, call: Call) -> Response:
        """The answer to a request of /v1/completions; prompts are answered one after the other."""
        self._check(body)
        if not all(isinstance(prompt, str) for prompt in body.prompts):
            told = f"prompt: {self.name} takes texts; ids of tokens are those of one model"
            raise RequestError(400, told, "invalid_field")

        def ids(prompt: str, model: int) -> list[int]:
            self.parts[model].check_texts([prompt])
            return self.parts[model].ids(prompt)

        asked = [(str(prompt), partial(ids, str(prompt))) for prompt in body.prompts]
        found = await self._found(asked, body, body.max_tokens, call)
        envelope = Envelope("text_completion", "cmpl", self.name, body.usage)
        return self._told(found, body, CompletionReply(self.parts[0].tokenizer, 1, None), envelope)

    async def answered(self, body: ChatBody, call: Call) -> Response:
        """The answer to a request of /v1/chat/completions; each model reads it by its own template."""
        self._check(body)
        rows = [message.row() for message in body.messages]

        def ids(model: int) -> list[int]:
            return self.parts[model].conversation_ids(rows)

        prompt = "\n".join(row["content"] for row in rows)
        limit = body.max_completion_tokens or body.max_tokens
        found = await self._found([(prompt, ids)], body, limit, call)
        envelope = Envelope("chat.completion", "chatcmpl", self.name, body.usage)
        return self._told(found, body, ChatReply(self.parts[0].tokenizer, False, None), envelope)

    def _check(self, body: CompletionBody | ChatBody) -> None:
        """Refuse what answers of several models cannot keep to."""
        fields = type(body).model_fields
        for name in sorted(body.model_fields_set - HONOURED):
            if getattr(body, name) != (0 if name == "temperature" else fields[name].get_default()):
                told = f"{name}: has no place with {self.name}, whose models answer greedily and one after the other"
                raise RequestError(400, told, "invalid_field")

    async def _found(
        self,
        asked: Sequence[tuple[str, Callable[[int], list[int]]]],
        body: CompletionBody | ChatBody,
        limit: int | None,
        call: Call,
    ) -> list[Found]:
        """What the models answer to prompts, given as classifiers read them and as ids of each model."""
        usual, stop = self.cascade.settings.asking, body.stops
        asking = Asking(usual.max_new_tokens if limit is None else limit, (*usual.stop, *stop))
        cascade, until = self.cascade.with_asking(asking), time.monotonic() + call.deadline

        async def all_of_them() -> list[Found]:
            return [await self._one(cascade, prompt, ids, until, call) for prompt, ids in asked]

        return await stay(all_of_them(), call.receive, call.deadline + READ_SECONDS)

    async def _one(
        self, cascade: Cascade, prompt: str, ids: Callable[[int], list[int]], until: float, call: Call
    ) -> Found:
        """The answer to one prompt."""
        ids = cache(ids)
        turns, answer = cascade.turns(prompt, ids), None
        while True:
            turn = await call.front.do(partial(advance, turns, answer), call.receive)
            if isinstance(turn, Found):
                return turn
            read = await call.front.do(partial(ids, turn), call.receive)
            answer = await self._ask(cascade, turn, read, until, call)

    async def _ask(self, cascade: Cascade, model: int, ids: Sequence[int], until: float, call: Call) -> Answer:
        """What one of the models answers; its seconds are those that the caller waits for it."""
        began, told, part = time.monotonic(), cascade.settings, self.parts[model]
        if began >= until:
            raise RequestError(504, f"no answer has come within {call.deadline:.0f} seconds", "too_slow")
        requests = [
            replace(request, deadline=until - began, salt=call.salt, adapter=part.adapter)
            for request in requests_for(ids, told.asking, told.scorer)
        ]
        tickets = part.worker.submit(requests, False, partial(call.on_end, self.name))
        try:
            for ticket in tickets:
                await ticket.done()
        finally:
            for ticket in tickets:
                part.worker.cancel(ticket)
        completions = [completion for ticket in tickets for completion in ticket.completions]
        for completion in completions:
            check(completion)
        written = sum(ticket.written for ticket in tickets)
        return answer_from(completions, len(ids), written, time.monotonic() - began, cascade.price(model))

    def _told(
        self, found: Sequence[Found], body: CompletionBody | ChatBody, reply: Reply, envelope: Envelope
    ) -> Response:
        """Answers in OpenAI's form; a stream tells each at once, for it is known when the last model was asked."""
        stages = [stage for one in found for stage in one.stages]
        spent = usage(sum(stage.answer.read for stage in stages), sum(stage.answer.written for stage in stages))
        written = [_written(one.stages[-1]) for one in found]
        if not body.stream:
            choices = [{**reply.choice(n, text), "cascade": self._row(found[n])} for n, text in enumerate(written)]
            return JSONResponse(envelope.whole(choices, spent))
        chunks = []
        for number, text in enumerate(written):
            told = [*reply.piece(number, text.text, ()), *reply.last(number, text)]
            told[-1] = {**told[-1], "cascade": self._row(found[number])}
            chunks += [envelope.chunk([choice]) for choice in told]
        chunks += [envelope.chunk([], spent)] if body.usage else []
        headers = {"cache-control": "no-store"}
        return Response(events(chunks) + b"data: [DONE]\n\n", media_type="text/event-stream", headers=headers)

    def _row(self, found: Found) -> dict[str, Any]:
        """Who was asked, how sure it was, and what all of that cost. Callers are told no paths."""
        row = {**found.row(), "unit": self.cascade.settings.costs.cost}
        del row["text"]
        stages = [{**stage, "model": Path(stage["model"]).name} for stage in row["stages"]]
        return {**row, "model": stages[-1]["model"], "stages": stages}


def _written(stage: Stage) -> Completion:
    return Completion(stage.answer.text, [], stage.answer.reason)


def open_served_cascade(
    name: str, folder: Path, opening: Opening, part: Callable[[Path, str], Served]
) -> ServedCascade:
    """A cascade or a router under a name.

    Args:
        name: the name, before which its kind is put.
        folder: the folder.
        opening: how its classifier is opened.
        part: gives a model for its folder, served under the name that it has there unless it is served already.
    """
    settings = open_cascade(folder, opening.open).settings
    name = f"{settings.kind}:{name}"
    parts = tuple(part(Path(model), f"{name}/{Path(model).name}") for model in settings.models)
    opened = {model: (one.model, one.tokenizer) for model, one in zip(settings.models, parts, strict=True)}
    if silent := next((one for one in parts if not one.writes), None):
        raise UserError(f"--cascade {folder}: its model {silent.name} writes no texts")
    cascade = open_cascade(folder, lambda path: opened.get(str(path)) or opening.open(path))
    return ServedCascade(name, cascade, parts)
