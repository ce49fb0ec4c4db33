"""The server's process: a socket, uvicorn around the application, and an end that loses nothing."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import uvicorn

from langwright.base.errors import UserError
from langwright.serving.body import MOST_HEADERS
from langwright.serving.door import Door
from langwright.serving.door import Protocol as Connection

MOST_CONNECTIONS = 800
"""More are turned away with 503; a process may have 1,024 files open."""


@runtime_checkable
class Service(Protocol):
    """What is served.

    Attributes:
        app: the application; `open` makes it ready.
    """

    app: Door

    def open(self, loaded: Any, /) -> None:
        """Answer from now on, with what was loaded. Called on the event loop."""

    def close(self) -> None:
        """End."""


class Server(uvicorn.Server):
    """Uvicorn, whose end by a signal is no error: what has begun is finished, and nothing new is let in."""

    service: Service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the server; the second SIGINT breaks everything off."""
        if threading.current_thread() is threading.main_thread():
            for signal in uvicorn.server.HANDLED_SIGNALS:
                asyncio.get_running_loop().add_signal_handler(signal, self.handle_exit, signal, None)
        yield

    def handle_exit(self, sig: int, frame: object) -> None:
        """End."""
        self.service.app.leaving = True
        super().handle_exit(sig, None)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; port 0 is any that is free. Raises UserError where it is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror or error}") from None
    return bound


def serve(
    service: Service,
    bound: socket.socket,
    load: Callable[[], Any],
    on_ready: Callable[[str], None],
    drain: float,
) -> None:
    """Answer until a signal comes; 503 while what is served is being loaded.

    Args:
        service: the application.
        bound: see `listen`.
        load: gives what `Service.open` takes, such as the models. An error of it ends the server and is raised.
        on_ready: told the address once requests are answered.
        drain: seconds that requests have to end after the signal.
    """
    asyncio.run(run(service, bound, load, on_ready, drain))


async def run(
    service: Service,
    bound: socket.socket,
    load: Callable[[], Any],
    on_ready: Callable[[str], None],
    drain: float,
) -> None:
    """The same on an event loop."""
    config = uvicorn.Config(
        service.app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=round(drain),
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEADERS,
    )
    server = Server(config)
    server.service = service
    answering = asyncio.ensure_future(server.serve(sockets=[bound]))
    loaded: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    threading.Thread(target=_load, args=(load, loaded, asyncio.get_running_loop()), daemon=True).start()
    try:
        await asyncio.wait((answering, loaded), return_when=asyncio.FIRST_COMPLETED)
        if loaded.done() and not answering.done():
            service.open(loaded.result())
            host, port = bound.getsockname()[:2]
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await answering
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await answering
        service.close()


def _load(load: Callable[[], Any], loaded: "asyncio.Future[Any]", loop: asyncio.AbstractEventLoop) -> None:
    """Load in a thread that may be left behind where the process is to end."""
    try:
        tell = partial(loaded.set_result, load())
    except BaseException as error:
        tell = partial(loaded.set_exception, error)
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(tell)
