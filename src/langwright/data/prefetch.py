"""Batches made ahead of time, off the path of the training step."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")


def prefetch(batch: Callable[[int], T], first_step: int, *, ahead: int = 2) -> Iterator[T]:
    """The batches of `first_step` and all steps after it, made by a thread that keeps at most `ahead` of them ready.

    An error in `batch` is raised where that batch would be taken. Closing the iterator (a generator) ends the thread.
    """
    ready: SimpleQueue[T | BaseException] = SimpleQueue()
    places, stopped = Semaphore(ahead), Event()

    def work() -> None:
        step = first_step
        while places.acquire() and not stopped.is_set():
            try:
                ready.put(batch(step))
            except BaseException as error:  # it belongs to whoever takes the batch
                ready.put(error)
                return
            step += 1

    thread = Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            places.release()
            yield item
    finally:
        stopped.set()
        places.release()
        thread.join()
