"""Things made ahead of time, off the path of what uses them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], ahead: int = 2) -> Iterator[T]:
    """The same items, made by a thread that keeps at most `ahead` of them ready.

    An error is raised where its item would be taken. Closing the iterator (a generator) ends the thread.
    """
    source, end = iter(items), object()
    worker = ThreadPoolExecutor(1, "prefetch")
    try:
        ready: deque[Any] = deque(worker.submit(next, source, end) for _ in range(ahead))
        while (item := ready.popleft().result()) is not end:
            ready.append(worker.submit(next, source, end))
            yield item
    finally:
        worker.shutdown(cancel_futures=True)
