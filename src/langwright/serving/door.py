"""The door: who may come in, how much may be brought, and how long that may take. It stands before every route."""

import asyncio
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from langwright.serving.body import MOST_BODY, MOST_HEADERS
from langwright.serving.errors import RequestError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEAD_SECONDS, BODY_SECONDS = 10.0, 30.0
"""The longest that a sender may take for the head of a request, and for its body."""


class Door:
    """Lets a request through to an application, or says why not.

    Args:
        app: what is behind.
        keys: one of them is asked for everywhere but at the open paths; none for no such question.
        count: told the path and the status of each answer.
        open_paths: what is answered without a key.

    Attributes:
        ready: whether the models are there.
        leaving: whether the server is about to end.
    """

    def __init__(
        self,
        app: App,
        keys: Sequence[str],
        count: Callable[[str, int], None],
        open_paths: Collection[str] = ("/health",),
    ):
        self._app, self._keys, self._count = app, [hashlib.sha256(key.encode().strip()).digest() for key in keys], count
        self._open_paths = frozenset(open_paths)
        self.ready, self.leaving = False, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._count(scope["path"], message["status"])
            await send(message)

        try:
            scope["salt"] = "" if scope["path"] in self._open_paths else self._enter(scope["path"], headers)
            size = sum(len(name) + len(value) for name, value in scope["headers"])
            if size + len(scope["raw_path"]) + len(scope["query_string"]) > MOST_HEADERS:
                raise RequestError(431, f"path and headers are longer than {MOST_HEADERS:,} bytes", "headers_too_long")
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length[:20]) > MOST_BODY:
                raise _too_much()
        except RequestError as refusal:
            await answer(counted, refusal.status, refusal.body, {**refusal.headers, "connection": "close"})
            return
        await self._app(scope, _bounded(receive), counted)

    def _enter(self, path: str, headers: dict[bytes, bytes]) -> str:
        """The salt of who asks: callers of different keys share nothing, so that times tell neither of the other."""
        salt = ""
        if self._keys:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            hashed = hashlib.sha256(given.strip()).digest()
            matches = [hmac.compare_digest(hashed, key) for key in self._keys]
            if kind.lower() != b"bearer" or not any(matches):
                told = {"www-authenticate": "Bearer"}
                raise RequestError(
                    401, "the Authorization header has no valid key: Bearer KEY", "invalid_api_key", told
                )
            salt = hashed.hex()
        elif not is_local(_host(headers.get(b"host", b"localhost").decode("latin-1"))):
            raise RequestError(403, "Host: a server without a key answers to localhost only", "invalid_host")
        if self.leaving:
            raise RequestError(503, "the server is about to end", "leaving", {"Retry-After": "5"})
        if not self.ready and path != "/ready":
            raise RequestError(503, "the model is being loaded", "loading", {"Retry-After": "5"})
        return salt


def is_local(host: str) -> bool:
    """Whether a host is this machine, reached from itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def answer(send: Send, status: int, body: Any, headers: Mapping[str, str] = {}) -> None:
    """Send JSON."""
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    rows = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    told = [(name.lower().encode(), value.encode("latin-1")) for name, value in rows.items()]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": content})


def _host(value: str) -> str:
    """The host of a Host header, without its port."""
    return value[1:].partition("]")[0] if value.startswith("[") else value.partition(":")[0]


def _too_much() -> RequestError:
    return RequestError(413, f"the body is longer than {MOST_BODY:,} bytes", "body_too_long", {"connection": "close"})


def _bounded(receive: Receive) -> Receive:
    """What receives the parts of a body, as long as they come in time and are not too many."""
    loop = asyncio.get_running_loop()
    until, taken, whole = loop.time() + BODY_SECONDS, 0, False

    async def take() -> MutableMapping[str, Any]:
        nonlocal taken, whole
        if whole:
            return await receive()  # that the caller has left
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            late = f"the body took longer than {BODY_SECONDS:.0f} seconds"
            raise RequestError(408, late, "too_slow", {"connection": "close"}) from None
        taken += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if taken > MOST_BODY:
            raise _too_much()
        return message

    return take


class Protocol(H11Protocol):
    """HTTP over a connection that is closed where the head of a request does not come in time."""

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Wait for a head where there is none yet."""
        answered = self.cycle is not None and not self.cycle.response_complete
        if answered and self._watch is not None:
            self._watch.cancel()
            self._watch = None
        elif not answered and self._watch is None:
            self._watch = self.loop.call_later(HEAD_SECONDS, self._late)

    def _late(self) -> None:
        self._watch = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()
