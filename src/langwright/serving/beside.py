"""Work in a thread of its own beside the event loop, for as long as it may take."""

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from langwright.serving.errors import RequestError

T = TypeVar("T")


class _Interrupted(BaseException):
    """Raised inside work that takes too long."""


async def beside(work: Callable[[], T], seconds: float) -> T:
    """What a function gives, from a thread of its own.

    Raises:
        RequestError: It took longer. The thread is interrupted between two instructions of Python, such as those of a
            template; what is written in other languages is waited for by nobody.
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
    try:
        return await asyncio.wait_for(asyncio.shield(done), seconds)
    except TimeoutError:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Interrupted))
        await asyncio.wait((done,), timeout=1.0)
        if done.cancel() is False:  # it has ended by now, and what came of it is of no use
            done.exception()
        raise RequestError(503, "template, tokens and form of the request take too long", "too_slow") from None
