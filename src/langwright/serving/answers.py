"""The answer to a request for texts: what is written for it, told whole or as it comes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from langwright.inference.request import Completion
from langwright.inference.request import Request as Asked
from langwright.serving.beside import Line, stay
from langwright.serving.bodies import Generation
from langwright.serving.door import Receive, Scope, Send, answer
from langwright.serving.errors import RequestError
from langwright.serving.replies import Envelope, Reply, usage
from langwright.serving.worker import Ticket, Worker

T = TypeVar("T")
READ_SECONDS = 30.0
"""The longest that a reader may take beyond the deadline of its request."""


@dataclass(frozen=True)
class Call:
    """What comes with the body of a request.

    Args:
        receive: tells that the caller has left.
        salt: of the caller.
        deadline: seconds after which a text ends as it is.
        front: where templates and tokens are made.
        forms: where the form of a text is read.
        on_end: told the name of what was asked for, and each request of an engine when it has ended.
    """

    receive: Receive
    salt: str
    deadline: float
    front: Line
    forms: Line
    on_end: Callable[[str, Ticket], None]


@dataclass(frozen=True)
class Answer:
    """The answer to a request for texts, whole or as it is written; who leaves before its end has it broken off.

    Args:
        worker: who writes.
        body: what was asked.
        asked: of the engine.
        reply: how texts are told.
        envelope: what stands around them.
        on_end: told of each request of the engine when it has ended.
        seconds: the longest that all of it may take.
    """

    worker: Worker
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

        tickets = self.worker.submit(self.asked, self.body.stream, self.on_end)
        work = (self._stream if self.body.stream else self._whole)(tickets, watched)
        try:
            await stay(work, receive, self.seconds)
        except RequestError:
            if not begun:  # or else the connection is closed before the end of the answer
                raise
        finally:
            for ticket in tickets:
                self.worker.cancel(ticket)

    async def _whole(self, tickets: Sequence[Ticket], send: Send) -> None:
        for ticket in tickets:
            await ticket.done()
        completions = [completion for ticket in tickets for completion in ticket.completions]
        for completion in completions:
            check(completion)
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
                await send({"type": "http.response.body", "body": events(chunks), "more_body": True})
            last = [self.envelope.chunk([], self._usage(tickets))] if self.body.usage else []
        except RequestError as refusal:
            if not begun:
                raise
            last = [refusal.body]
        await send({"type": "http.response.body", "body": events(last) + b"data: [DONE]\n\n", "more_body": False})

    async def _chunks(self, ticket: Ticket, place: int) -> AsyncIterator[list[Any]]:
        """What is told of the texts of one request."""
        first = place * self.body.n
        async for pieces in ticket.follow():
            told = [c for piece in pieces for c in self.reply.piece(first + piece.number, piece.text, piece.logprobs)]
            for number, completion in enumerate(ticket.completions):
                check(completion)
                told += self.reply.last(first + number, completion)
            if chunks := [self.envelope.chunk([choice]) for choice in told]:
                yield chunks

    def _usage(self, tickets: Sequence[Ticket]) -> dict[str, Any]:
        written = sum(ticket.written for ticket in tickets)
        return usage(sum(len(one.prompt) for one in self.asked), 0 if self.body.max_tokens == 0 else written)


def check(completion: Completion) -> None:
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


def events(chunks: Sequence[Any]) -> bytes:
    """Server-sent events."""
    return b"".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode("utf-8", "replace") for chunk in chunks)
