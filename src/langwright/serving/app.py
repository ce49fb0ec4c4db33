"""The routes: a body is read and checked, asked of a model, and told in OpenAI's form."""

import asyncio
import base64
import contextlib
import json
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from langwright.inference.prompts import check_ids, check_length
from langwright.inference.request import Completion
from langwright.inference.request import Request as Asked
from langwright.serving.beside import Line, stay
from langwright.serving.bodies import (
    MOST_PROMPTS,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    Generation,
    TokenizeBody,
)  # fmt: skip
from langwright.serving.door import Door, Receive, Scope, Send, answer
from langwright.serving.errors import RequestError
from langwright.serving.metrics import Metrics
from langwright.serving.page import CHAT
from langwright.serving.replies import ChatReply, CompletionReply, Envelope, Reply, usage
from langwright.serving.routes import application, read_body
from langwright.serving.served import Served
from langwright.serving.worker import Ticket

T = TypeVar("T")
FRONT_SECONDS = 10.0
"""The longest that templates and tokens, or the form of a request, may take, and that their turn is waited for."""
READ_SECONDS = 30.0
"""The longest that a reader may take beyond the deadline of its request."""


class Service:
    """The application, and what its routes share.

    Args:
        keys: of callers.
        deadline: seconds after which a text ends as it is.
        page: whether the chat page, which holds no data, is handed to who shows no key; without keys it always is.
    """

    def __init__(self, keys: Sequence[str] = (), deadline: float = 600.0, page: bool = False):
        self.deadline, self.metrics, self.created = deadline, Metrics(), int(time.time())
        self.served: Mapping[str, Served] = {}
        self._front, self._forms = Line(FRONT_SECONDS), Line(FRONT_SECONDS)  # a tokenizer is used by one thread
        open_paths = ("/health", "/") if keys and page else ("/health",)
        self.app = Door(self._routes(), keys, self.metrics.answered, open_paths)

    def open(self, served: Sequence[Served]) -> None:
        """Answer for these models from now on. To be called on the event loop."""
        self.served = {one.name: one for one in served}
        for worker in {one.worker: None for one in served}:
            worker.start()
        self._front.room = self._forms.room = sum(worker.room for worker in {one.worker for one in served})
        self.metrics.watch(served)
        self.app.ready = True

    def close(self) -> None:
        """Let the threads end."""
        for worker in {one.worker: None for one in self.served.values()}:
            worker.close()

    def _routes(self) -> FastAPI:
        routes: dict[str, tuple[str, Any]] = {
            "/": ("GET", self._page), "/health": ("GET", self._health), "/ready": ("GET", self._ready),
            "/metrics": ("GET", self._metrics),
            "/v1/models": ("GET", self._models), "/v1/models/{name}": ("GET", self._model),
            "/v1/completions": ("POST", self._completions), "/v1/chat/completions": ("POST", self._chat),
            "/v1/embeddings": ("POST", self._embeddings),
            "/tokenize": ("POST", self._tokenize), "/detokenize": ("POST", self._detokenize),
        }  # fmt: skip
        self.metrics.routes = frozenset(routes)
        return application(routes)

    async def _page(self, request: Request) -> Response:
        return CHAT.response()

    async def _health(self, request: Request) -> Response:
        dead = [one.worker.dead for one in self.served.values() if one.worker.dead is not None]
        if dead:
            raise RequestError(503, f"an engine has stopped: {dead[0]}", "engine_dead")
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if not self.app.ready:
            raise RequestError(503, "the model is being loaded", "loading")
        return await self._health(request)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._row(one) for one in self.served.values()]})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self._row(self._find(request.path_params["name"])))

    def _row(self, one: Served) -> dict[str, Any]:
        row = {"id": one.name, "object": "model", "created": self.created, "owned_by": "langwright"}
        return {**row, "parent": one.parent, "max_model_len": one.model.context, "task": one.task}

    def _find(self, name: str | None) -> Served:
        """What is served under a name; the first model unless one is named."""
        name = next(iter(self.served)) if name is None else name
        if name not in self.served:
            raise RequestError(404, f"model: {name} is not served, only {', '.join(self.served)}", "model_not_found")
        return self.served[name]

    async def _usual(self, request: Request, one: Served, body: CompletionBody | ChatBody) -> dict[str, Any]:
        """What the engine is told of every request."""
        if not one.writes:
            raise RequestError(400, f"model: {one.name} makes vectors of texts, and writes none", "invalid_field")
        constraint = None
        if body.constraint is not None or (isinstance(body, ChatBody) and body.callable):
            constraint = await self._forms.do(partial(one.form, body), request.receive)
        return {"constraint": constraint, "deadline": self.deadline, "salt": request.scope["salt"]}

    async def _completions(self, request: Request) -> "Answer":
        body = await read_body(request, CompletionBody)
        one = self._find(body.model)
        scores = body.max_tokens == 0
        asked = body.model_copy(update={"max_tokens": 1}) if scores else body
        usual = await self._usual(request, one, body)
        requests = await self._front.do(partial(one.completions, asked, **usual), request.receive)
        echoes: list[tuple[str, list[int]]] = []
        if body.echo:
            echoes = await self._front.do(lambda: [one.echo(prompt) for prompt in body.prompts], request.receive)
        reply = CompletionReply(one.tokenizer, body.n, body.logprobs, echoes, written=not scores)
        return self._answer(one, body, requests, reply, Envelope("text_completion", "cmpl", one.name, body.usage))

    async def _chat(self, request: Request) -> "Answer":
        body = await read_body(request, ChatBody)
        one = self._find(body.model)
        usual = await self._usual(request, one, body)
        requests = await self._front.do(partial(one.chat, body, **usual), request.receive)
        reply = ChatReply(one.tokenizer, body.logprobs, one.tools if body.callable else None)
        return self._answer(one, body, requests, reply, Envelope("chat.completion", "chatcmpl", one.name, body.usage))

    def _answer(
        self, one: Served, body: Generation, asked: Sequence[Asked], reply: Reply, envelope: Envelope
    ) -> "Answer":
        ended = partial(self.metrics.ended, one.name)
        return Answer(one, body, asked, reply, envelope, ended, self.deadline + READ_SECONDS)

    async def _embeddings(self, request: Request) -> Response:
        body = await read_body(request, EmbeddingBody)
        one = self._find(body.model)
        if one.writes:
            raise RequestError(400, f"model: {one.name} writes texts, and makes no vectors of them", "invalid_field")
        given: Any = body.input
        inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        if not all(inputs) or len(inputs) > MOST_PROMPTS:
            raise RequestError(400, f"input: must be 1 to {MOST_PROMPTS} texts, none of them empty", "invalid_field")

        def ids() -> list[list[int]]:
            one.check_texts(inputs)
            rows = [one.tokenizer.frame(text)[0] if isinstance(text, str) else text for text in inputs]
            return [check_length(one.model, check_ids(row, one.tokenizer.vocab_size, "input")) for row in rows]

        rows = await self._front.do(ids, request.receive)
        vectors = await stay(one.vectors(rows), request.receive, self.deadline)
        spelt = [v if body.encoding_format == "float" else _base64(v) for v in vectors]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(spelt)]
        count = sum(map(len, rows))
        self.metrics.tokens.labels(one.name, "read").inc(count)
        told = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": one.name, "usage": told})

    async def _tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeBody)
        one = self._find(body.model)
        encode = one.ids if body.add_special_tokens and body.prompt else one.tokenizer.encode
        ids = await self._front.do(partial(encode, body.prompt), request.receive)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": one.model.context})

    async def _detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeBody)
        one = self._find(body.model)
        text = await self._front.do(partial(one.tokenizer.decode, body.tokens), request.receive)
        return JSONResponse({"prompt": text})


@dataclass(frozen=True)
class Answer:
    """The answer to a request for texts, whole or as it is written; who leaves before its end has it broken off.

    Args:
        one: who answers.
        body: what was asked.
        asked: of the engine.
        reply: how texts are told.
        envelope: what stands around them.
        on_end: told of each request of the engine when it has ended.
        seconds: the longest that all of it may take.
    """

    one: Served
    body: Generation
    asked: Sequence[Asked]
    reply: Reply
    envelope: Envelope
    on_end: Callable[[Ticket], None]
    seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        tickets = self.one.worker.submit(self.asked, self.body.stream, self.on_end)
        work = (self._stream if self.body.stream else self._whole)(tickets, watched)
        try:
            await stay(work, receive, self.seconds)
        except RequestError:
            if not begun:  # or else the connection is closed before the end of the answer
                raise
        finally:
            for ticket in tickets:
                self.one.worker.cancel(ticket)

    async def _whole(self, tickets: Sequence[Ticket], send: Send) -> None:
        for ticket in tickets:
            await ticket.done()
        completions = [completion for ticket in tickets for completion in ticket.completions]
        for completion in completions:
            _check(completion)
        choices = [self.reply.choice(number, completion) for number, completion in enumerate(completions)]
        await answer(send, 200, self.envelope.whole(choices, self._usage(tickets)))

    async def _stream(self, tickets: Sequence[Ticket], send: Send) -> None:
        begun = False
        try:
            async for chunks in _merged([self._chunks(ticket, place) for place, ticket in enumerate(tickets)]):
                if not begun:  # what does not fit the model was refused before
                    begun = True
                    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": _events(chunks), "more_body": True})
            last = [self.envelope.chunk([], self._usage(tickets))] if self.body.usage else []
        except RequestError as refusal:
            if not begun:
                raise
            last = [refusal.body]
        await send({"type": "http.response.body", "body": _events(last) + b"data: [DONE]\n\n", "more_body": False})

    async def _chunks(self, ticket: Ticket, place: int) -> AsyncIterator[list[Any]]:
        """What is told of the texts of one request."""
        first = place * self.body.n
        async for pieces in ticket.follow():
            told = [c for piece in pieces for c in self.reply.piece(first + piece.number, piece.text, piece.logprobs)]
            for number, completion in enumerate(ticket.completions):
                _check(completion)
                told += self.reply.last(first + number, completion)
            if chunks := [self.envelope.chunk([choice]) for choice in told]:
                yield chunks

    def _usage(self, tickets: Sequence[Ticket]) -> dict[str, Any]:
        written = sum(ticket.written for ticket in tickets)
        return usage(sum(len(one.prompt) for one in self.asked), 0 if self.body.max_tokens == 0 else written)


def _check(completion: Completion) -> None:
    """Raise RequestError where a text ended by an error of the engine."""
    if completion.error is not None:
        raise RequestError(500, completion.error, "engine_error")


async def _merged(streams: Sequence[AsyncIterator[T]]) -> AsyncIterator[T]:
    """What several streams give, as it comes."""
    if len(streams) == 1:
        async for one in streams[0]:
            yield one
        return
    waiting = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = waiting.pop(task)
                with contextlib.suppress(StopAsyncIteration):
                    yield task.result()
                    waiting[asyncio.ensure_future(anext(stream))] = stream
    finally:
        for task in waiting:
            task.cancel()


def _events(chunks: Sequence[Any]) -> bytes:
    """Server-sent events."""
    return b"".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode("utf-8", "replace") for chunk in chunks)


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
