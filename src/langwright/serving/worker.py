"""The one thread that owns an engine, and the way there and back for requests that come from an event loop."""

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from langwright.base.errors import UserError
from langwright.inference.engine import Engine
from langwright.inference.request import Completion, Handle, Logprob, Request
from langwright.serving.errors import RequestError, too_many

T = TypeVar("T")


class Piece(NamedTuple):
    """What became final of one text: its number, the text, and the log-probabilities of tokens since the last piece."""

    number: int
    text: str
    logprobs: list[Logprob]


class Ticket:
    """A request on its way. Everything but `request`, `handle` and `given` belongs to the event loop.

    Args:
        request: what is asked.
        streams: whether pieces are wanted as they come.
        on_end: told when it has ended.

    Attributes:
        completions: once it has ended.
        written: how many tokens were written, those of texts that were not chosen among them.
        failure: why it was not begun.
        began, first, ended: seconds of `time.monotonic`.
    """

    def __init__(self, request: Request, streams: bool, on_end: Callable[["Ticket"], None]):
        self.request, self.streams, self.on_end = request, streams, on_end
        self.handle: Handle | None = None
        self.given = [0] * request.n  # log-probabilities that were passed on
        self.pieces: list[Piece] = []
        self.completions: list[Completion] = []
        self.written = 0
        self.failure: RequestError | None = None
        self.began, self.first, self.ended = time.monotonic(), 0.0, 0.0
        self._news = asyncio.Event()

    async def follow(self) -> AsyncIterator[list[Piece]]:
        """What is new, until all texts have ended. Raises RequestError where the request does not fit the model."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self.failure is not None:
                raise self.failure
            pieces, self.pieces = self.pieces, []
            if pieces:
                yield pieces
            if self.ended:
                return

    async def done(self) -> None:
        """Wait for the end."""
        async for _ in self.follow():
            pass

    def tell(self, pieces: list[Piece], completions: list[Completion], failure: RequestError | None, at: float) -> None:
        """Take in what the engine's thread says."""
        self.pieces += pieces
        self.completions, self.failure = completions, failure
        self.first = self.first or at
        if completions or failure:
            self.ended = at
        self._news.set()


class Worker:
    """An engine and its thread.

    Args:
        engine: what writes texts; None for a model that writes none, for which the thread makes `calls` alone.
        seats: the most texts that it writes side by side.
        waiting: how many more texts may wait.
    """

    def __init__(self, engine: Engine | None, seats: int, waiting: int):
        self.engine, self.room = engine, seats + waiting
        self.texts = 0  # on their way; of the event loop
        self.dead: str | None = None
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._open: dict[Handle, Ticket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin, on the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self, seconds: float = 10.0) -> None:
        """Let the thread end."""
        self._calls.put(None)
        self._thread.join(seconds)

    def submit(self, requests: Sequence[Request], streams: bool, on_end: Callable[[Ticket], None]) -> list[Ticket]:
        """Hand requests to the engine, all of them or none. Raises RequestError where too many wait."""
        self._let_in(texts := sum(request.texts for request in requests))
        self.texts += texts
        tickets = [Ticket(request, streams, on_end) for request in requests]
        for ticket in tickets:
            self._calls.put(partial(self._add, ticket))
        return tickets

    def cancel(self, ticket: Ticket) -> None:
        """Break a request off before the next step."""
        if not ticket.ended:
            self._calls.put(partial(self._cancel, ticket))

    async def calls(self, functions: Sequence[Callable[[], T]], texts: int) -> list[T]:
        """What functions make of so many texts in the engine's thread, one after the other, each between two steps.

        Raises RequestError where too many texts wait.
        """
        self._let_in(texts)
        self.texts += texts
        try:
            return [await self._call(function) for function in functions]
        finally:
            self.texts -= texts

    async def _call(self, function: Callable[[], T]) -> T:
        assert self._loop is not None
        loop, answer = self._loop, asyncio.get_running_loop().create_future()

        def run() -> None:
            result: Any = None
            if answer.cancelled():
                return
            try:
                result, tell = function(), answer.set_result
            except BaseException as error:
                result, tell = error, answer.set_exception
            loop.call_soon_threadsafe(lambda: None if answer.done() else tell(result))

        self._calls.put(run)
        return await answer

    def _let_in(self, texts: int) -> None:
        """Raise RequestError where so many more are too many."""
        if self.dead is not None:
            raise RequestError(503, f"the engine has stopped: {self.dead}", "engine_dead")
        if texts > self.room:
            told = f"{texts} texts are asked for at once, and at most {self.room} may be"
            raise RequestError(400, told, "too_many_texts")
        if self.texts + texts > self.room:
            raise too_many()

    def _run(self) -> None:
        try:
            while True:
                busy = self.engine is not None and self.engine.busy
                if not busy or not self._calls.empty():
                    call = self._calls.get()
                    if call is None:
                        return
                    call()
                elif self.engine is not None:
                    self._step(self.engine)
        except BaseException as error:  # nothing is answered any more, and all who wait are told
            self.dead = f"{type(error).__name__}: {error}"
            lost = RequestError(500, f"the engine has stopped: {self.dead}", "engine_dead")
            self._tell([(ticket, [], [], lost) for ticket in self._open.values()])
            while (call := self._calls.get()) is not None:
                call()

    def _add(self, ticket: Ticket) -> None:
        try:
            if self.engine is None or self.dead is not None:
                raise RuntimeError("the engine has stopped")
            ticket.handle = self.engine.add(ticket.request)
            self._open[ticket.handle] = ticket
        except UserError as error:
            self._tell([(ticket, [], [], RequestError.of(error))])
        except Exception as error:
            self._tell([(ticket, [], [], RequestError(500, f"{type(error).__name__}: {error}", "engine_error"))])

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.handle in self._open and self.engine is not None and self.dead is None:
            self.engine.cancel(ticket.handle)
            self._tell([self._news(ticket.handle)])

    def _step(self, engine: Engine) -> None:
        try:
            news = engine.step()
        except Exception:
            news = engine.step_apart()
        told = [self._news(handle) for handle in news if handle in self._open]
        self._tell([one for one in told if one[0].streams or one[2] or not one[0].first])

    def _news(self, handle: Handle) -> tuple[Ticket, list[Piece], list[Completion], None]:
        ticket = self._open[handle]
        pieces: list[Piece] = []
        for number in range(ticket.request.n if ticket.streams else 0):
            known = (handle.completions[number].logprobs or ()) if handle.done else handle.logprobs(number)
            said = handle.read(number)
            if said or handle.done:
                pieces.append(Piece(number, said, list(itertools.islice(known, ticket.given[number], None))))
                ticket.given[number] = len(known)
        if handle.done:
            del self._open[handle]
            ticket.written = handle.written
        return ticket, pieces, handle.completions, None

    def _tell(self, news: list[tuple[Ticket, list[Piece], list[Completion], RequestError | None]]) -> None:
        """Pass on what a step gave, in one call of the event loop."""
        assert self._loop is not None
        now = time.monotonic()

        def tell() -> None:
            for ticket, pieces, completions, failure in news:
                ticket.tell(pieces, completions, failure, now)
                if ticket.ended:
                    self.texts -= ticket.request.texts
                    ticket.on_end(ticket)

        if news:
            self._loop.call_soon_threadsafe(tell)
