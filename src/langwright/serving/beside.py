"""Work in a thread of its own beside the event loop, for as long as it may take and its caller is there."""

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from langwright.serving.door import Receive
from langwright.serving.errors import RequestError, too_many

T = TypeVar("T")
END_SECONDS = 3.0
"""How long is waited for the end of a thread that was interrupted."""


class _Interrupted(BaseException):
    """Raised inside work that takes too long."""


async def beside(work: Callable[[], T], seconds: float) -> T:
    """What a function gives, from a thread of its own.

    A thread whose work takes longer, or is wanted no more, is interrupted between two instructions of Python, such as
    those of a template; what is written in other languages is waited for `END_SECONDS` only.

    Raises:
        RequestError: It took longer.
    """
    loop, thread = asyncio.get_running_loop(), threading.Thread(daemon=True)
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: Any, failed: BaseException | None) -> None:
        if not done.done():
            done.set_result(result) if failed is None else done.set_exception(failed)

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, failed)

    thread.run = run  # type: ignore[method-assign]
    thread.start()
    in_time = False
    try:
        in_time = bool((await asyncio.wait((done,), timeout=seconds))[0])
    finally:
        if not in_time:
            stop, ident = ctypes.py_object(_Interrupted), ctypes.c_ulong(thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, stop)
            await asyncio.wait((done,), timeout=END_SECONDS)
            if done.cancel() is False:  # it has ended by now, and what came of it is of no use
                done.exception()
    if not in_time:
        raise RequestError(503, "template, tokens and form of the request take too long", "too_slow")
    return done.result()


class Line:
    """Work of many callers beside the event loop, one after the other.

    Args:
        seconds: the longest that a caller may wait for its turn, and then again for the work itself.

    Attributes:
        room: how many may wait.
    """

    def __init__(self, seconds: float):
        self.seconds, self.room = seconds, 1
        self._turn, self._waiting = asyncio.Lock(), 0

    async def do(self, work: Callable[[], T], receive: Receive) -> T:
        """What a function gives. Raises RequestError where too many wait, it takes too long or the caller leaves."""
        return await stay(self._do(work), receive, 2 * self.seconds + END_SECONDS)

    async def _do(self, work: Callable[[], T]) -> T:
        overloaded = too_many()
        if self._waiting >= self.room:
            raise overloaded
        self._waiting += 1
        try:
            async with asyncio.timeout(self.seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise overloaded from None
        finally:
            self._waiting -= 1
        try:
            return await beside(work, self.seconds)
        finally:
            self._turn.release()


async def stay(work: Coroutine[Any, Any, T], receive: Receive, seconds: float) -> T:
    """What comes of work, which is broken off where its caller leaves.

    Args:
        work: what is to be done, after the body was read.
        receive: tells that the caller has left.
        seconds: the longest that it may take.

    Raises:
        RequestError: The caller has left, or it took longer.
    """
    doing, left = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((doing, left), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        if left.done():
            raise RequestError(499, "the caller has left", "left")
        raise RequestError(504, f"no answer has come within {seconds:.0f} seconds", "too_slow")
    finally:
        for task in (doing, left):
            task.cancel()


async def _left(receive: Receive) -> None:
    """Wait until the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
