"""What is refused, with the status and the name of the field; and that nothing of it harms who comes next."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from langwright.pipelines.opening import Opening
from langwright.serving.app import Service
from langwright.serving.process import listen, run
from langwright.serving.served import Served, open_model
from refusals import Fails
from serving.conftest import ENDLESS, Started, models  # type: ignore[import-not-found]

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hm?"}]


@pytest.fixture(scope="module")
def http(started: Started) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=started.url, timeout=30) as client:
        yield client


def schema(content: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": content}}


def nested(depth: int) -> Any:
    value: Any = {"type": "string"}
    for _ in range(depth):
        value = {"type": "array", "items": value}
    return value


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (COMPLETION, {"prompt": "a", "best": 2}, "best"),
        (COMPLETION, {"prompt": "a", "user": "me"}, "user"),
        (COMPLETION, {"prompt": "a", "suffix": "b"}, "suffix"),
        (COMPLETION, {"prompt": 3}, "prompt"),
        (COMPLETION, {}, "prompt"),
        (COMPLETION, {"prompt": []}, "prompt"),
        (COMPLETION, {"prompt": ["a"] * 65}, "prompt"),
        (COMPLETION, {"prompt": [70000]}, "vocabulary"),
        (COMPLETION, {"prompt": [-1]}, "prompt"),
        (COMPLETION, {"prompt": [1, 2**70]}, "prompt"),
        (COMPLETION, {"prompt": "a" * 3000}, "context"),
        (COMPLETION, {"prompt": "a", "max_tokens": "3"}, "max_tokens"),
        (COMPLETION, {"prompt": "a", "max_tokens": True}, "max_tokens"),
        (COMPLETION, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (COMPLETION, {"prompt": "a", "max_tokens": 99999}, "context"),
        (COMPLETION, {"prompt": "a", "temperature": -1}, "temperature"),
        (COMPLETION, {"prompt": "a", "temperature": 1e-9}, "temperature"),
        (COMPLETION, {"prompt": "a", "top_p": 0}, "top_p"),
        (COMPLETION, {"prompt": "a", "n": 17}, "n"),
        (COMPLETION, {"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        (COMPLETION, {"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
        (COMPLETION, {"prompt": ["a"] * 8, "n": 5}, "40 texts"),
        (COMPLETION, {"prompt": "a", "logprobs": 21}, "logprobs"),
        (COMPLETION, {"prompt": "a", "stop": ["x"] * 9}, "stop"),
        (COMPLETION, {"prompt": "a", "stop": ""}, "stop"),
        (COMPLETION, {"prompt": "a", "stop": "x" * 200}, "stop"),
        (COMPLETION, {"prompt": "a", "logit_bias": {"99999": 1}}, "logit_bias"),
        (COMPLETION, {"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
        (COMPLETION, {"prompt": "a", "logit_bias": {"\u0663": 1}}, "logit_bias"),
        (COMPLETION, {"prompt": "a", "echo": True, "stream": True}, "echo"),
        (COMPLETION, {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        (COMPLETION, {"prompt": "a", "structured_outputs": {"regex": "(" * 50}}, "regex"),
        (COMPLETION, {"prompt": "a", "structured_outputs": {"regex": "a{99999}{99999}"}}, "regex"),
        (COMPLETION, {"prompt": "a", "structured_outputs": {"grammar": "start: start start"}, "stop": "a"}, "grammar"),
        (COMPLETION, {"prompt": "a", "structured_outputs": {"choice": []}}, "choices"),
        (COMPLETION, {"prompt": "a", "structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": HELLO * 1025}, "messages"),
        (CHAT, {"messages": [{"role": "root", "content": "a"}]}, "role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "f"}]}]}, "content"),
        (CHAT, {"messages": HELLO, "chat_template": "{{ 1 }}"}, "chat_template"),
        (CHAT, {"messages": HELLO, "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        (CHAT, {"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema"}}, "json_schema"),
        (CHAT, {"messages": HELLO, "response_format": schema(nested(120))}, "nested"),
        (CHAT, {"messages": HELLO, "response_format": schema({"type": 3})}, "json_schema"),
        (CHAT, {"messages": HELLO, "tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
        (CHAT, {"messages": HELLO, "tools": [{"type": "function", "function": {"name": "a"}}] * 2}, "tools"),
        ("/v1/embeddings", {"input": "a"}, "model"),
        ("/tokenize", {"prompt": "a", "what": 1}, "what"),
        ("/detokenize", {"tokens": [99999]}, "vocabulary"),
    ],
)  # fmt: skip
def test_a_field_is_honoured_or_refused_by_name(http: httpx.Client, path: str, body: Any, name: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "code"}
    assert error["type"] == "invalid_request_error"
    assert name in error["message"], error


@pytest.mark.parametrize(
    ("path", "body", "begins", "name"),
    [
        (COMPLETION, {"prompt": "a", "stop": ["x"] * 9}, "stop: ", "8"),
        (COMPLETION, {"prompt": "a", "stop": ["x", "y" * 200]}, "stop.1: ", "128"),
        (COMPLETION, {"prompt": [True]}, "prompt.0: ", "integer"),
        (COMPLETION, {"prompt": [[1], [2, -1]]}, "prompt.1.1: ", "0"),
        (CHAT, {"messages": [{**HELLO[0], "refusal": None}]}, "messages.0.refusal: ", "supported"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text: ", ""),
        (CHAT, {"messages": HELLO, "tool_choice": {"type": "function"}}, "tool_choice.function: ", ""),
        (CHAT, {"messages": HELLO, "tool_choice": "perhaps"}, "tool_choice: ", "required"),
        (CHAT, {"message": HELLO}, "messages: ", ""),
    ],
)
def test_a_mistake_is_told_where_it_is(http: httpx.Client, path: str, body: Any, begins: str, name: str) -> None:
    """Of a field of several types too; and nothing is suggested that has no place there."""
    told = http.post(path, json=body).json()["error"]["message"]
    assert told.startswith(begins), told
    assert name in told
    assert "did you mean" not in told


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b'"\xff"', 400), (b'{"prompt": "\\ud800"}', 400), (b"[" * 100_000, 400),
        (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400), (b'{"prompt": "a", "temperature": NaN}', 400),
        (b" " * (5 << 20), 413),
    ],
)  # fmt: skip
def test_broken_bodies(http: httpx.Client, content: bytes, status: int) -> None:
    answer = http.post(COMPLETION, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_other_types_methods_routes_and_models(http: httpx.Client) -> None:
    assert http.post(COMPLETION, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert http.get(COMPLETION).status_code == 405
    for path in ("/v1", "/docs", "/openapi.json", "/v1/../v1/nothing", "//v1/models", "/v1/models/..%2f..%2fetc"):
        assert http.get(path).status_code == 404, path
    told = http.post(COMPLETION, json={"prompt": "a", "model": "other"})
    assert told.status_code == 404
    assert told.json()["error"]["code"] == "model_not_found"
    assert http.post(COMPLETION, json={"prompt": "a"}, headers={"host": "evil.example"}).status_code == 403
    assert "access-control-allow-origin" not in http.get("/health", headers={"origin": "https://evil.example"}).headers


def test_a_queue_that_is_full_turns_away_and_serves_on(http: httpx.Client, started: Started) -> None:
    def ask(number: int) -> httpx.Response:
        body = {"prompt": "a", "max_tokens": 60, "temperature": 0, "n": 4, "logit_bias": ENDLESS}
        return httpx.post(started.url + COMPLETION, json=body, timeout=60)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(24)))
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    late = next(answer for answer in answers if answer.status_code == 429)
    assert int(late.headers["retry-after"]) >= 1
    assert late.json()["error"]["type"] == "rate_limit_error"
    assert len({answer.text.partition('"choices"')[2] for answer in answers if answer.status_code == 200}) == 1
    worker = next(iter(started.service.served.values())).worker
    assert worker.texts == 0
    assert http.post(COMPLETION, json={"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_text_that_fits_no_way_is_refused_unread(http: httpx.Client) -> None:
    """Its characters are counted before its tokens are."""
    long, began = " " * 4_000_000, time.monotonic()
    for path, body, name in (
        (COMPLETION, {"prompt": long}, "context"),
        (COMPLETION, {"prompt": ["a", long]}, "context"),
        (CHAT, {"messages": [{"role": "user", "content": long}]}, "context"),
        ("/tokenize", {"prompt": long}, "prompt"),
    ):
        answer = http.post(path, json=body)
        assert answer.status_code == 400
        assert name in answer.json()["error"]["message"]
    assert time.monotonic() - began < 2


class Slow:
    """Finding the ids of a prompt takes until it is let go; which prompts that was begun for, and has ended for."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.go, usual = threading.Event(), Served.ids
        self.begun: list[str] = []
        self.ended: list[str] = []

        def ids(served: Served, text: str) -> list[int]:
            self.begun.append(text)
            try:
                while text != "quick" and not self.go.is_set():
                    time.sleep(0.001)
            finally:
                self.ended.append(text)
            return usual(served, text)

        patch.setattr(Served, "ids", ids)

    def ask(self, started: Started, prompt: str) -> socket.socket:
        """A caller with a large body."""
        body = json.dumps({"prompt": prompt, "max_tokens": 1}).encode() + b" " * 1_000_000
        head = f"POST {COMPLETION} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        host, port = started.url.removeprefix("http://").split(":")
        caller = socket.create_connection((host, int(port)), timeout=20)
        caller.sendall(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        return caller


def test_who_leaves_before_its_turn_is_not_prepared_for(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves in the middle of its turn has it broken off."""
    slow, line = Slow(monkeypatch), started.service._front
    callers = [slow.ask(started, f"slow {number}") for number in range(6)]
    while line._waiting < 5:
        time.sleep(0.001)
    for caller in callers:
        caller.close()
    left = time.monotonic()
    assert httpx.post(started.url + COMPLETION, json={"prompt": "quick", "max_tokens": 1}).status_code == 200
    assert time.monotonic() - left < 2
    assert len(slow.begun) == len(slow.ended) == 2
    assert line._waiting == 0


def test_who_waits_for_its_turn_is_counted(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than may wait is told so at once, and who waits too long as well."""
    slow, line = Slow(monkeypatch), started.service._front
    monkeypatch.setattr(line, "room", 3)
    callers = [slow.ask(started, f"slow {number}") for number in range(4)]
    while line._waiting < 3:
        time.sleep(0.001)
    late = slow.ask(started, "late")
    assert late.recv(12) == b"HTTP/1.1 429"
    slow.go.set()
    assert [caller.recv(12) for caller in callers] == [b"HTTP/1.1 200"] * 4
    slow.go.clear()
    monkeypatch.setattr(line, "seconds", 0.3)
    callers = [slow.ask(started, "slow")]
    while len(slow.begun) < 5:
        time.sleep(0.001)
    callers.append(slow.ask(started, "behind it"))
    assert {caller.recv(12) for caller in callers} <= {b"HTTP/1.1 503", b"HTTP/1.1 429"}
    for caller in (late, *callers):
        caller.close()


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_worked_for_no_more(started: Started, stream: bool) -> None:
    worker = next(iter(started.service.served.values())).worker
    body = json.dumps({"prompt": "a", "max_tokens": 900, "stream": stream, "logit_bias": ENDLESS}).encode()
    head = f"POST {COMPLETION} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    host, port = started.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        while not worker.texts:
            time.sleep(0.001)
        time.sleep(0.1)
    left = time.monotonic()
    while worker.texts:
        time.sleep(0.001)
        assert time.monotonic() < left + 2
    assert worker.engine is not None
    assert not worker.engine.busy


def test_a_row_that_fails_ends_alone(started: Started, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose step raises is answered with 500, those beside it as ever."""
    engine = next(iter(started.service.served.values())).worker.engine
    assert engine is not None
    read, usual = engine._read, http.post(COMPLETION, json={"prompt": "fine", "max_tokens": 40, "seed": 1}).json()

    def broken(pieces: Any) -> Any:
        if any(piece.text.ids[1:4] == engine.tokenizer.encode("bad") for piece in pieces):  # type: ignore[union-attr]
            raise ValueError("no such row")
        return read(pieces)

    monkeypatch.setattr(engine, "_read", broken)
    with ThreadPoolExecutor(6) as pool:
        bodies = [{"prompt": prompt, "max_tokens": 40, "seed": 1} for prompt in ("fine", "bad", "fine", "bad", "fine")]
        answers = list(pool.map(lambda body: httpx.post(started.url + COMPLETION, json=body, timeout=30), bodies))
    assert [answer.status_code for answer in answers] == [200, 500, 200, 500, 200]
    assert answers[1].json()["error"]["type"] == "server_error"
    assert {answer.json()["choices"][0]["text"] for answer in answers[::2]} == {usual["choices"][0]["text"]}
    assert http.get("/ready").status_code == 200


def test_a_text_ends_at_its_deadline(talker: Path) -> None:
    server = Started(lambda: [open_model("talker", talker, Opening(device="cpu"), 2, 2)], deadline=0.2)
    body = {"prompt": "a", "max_tokens": 1000, "logit_bias": ENDLESS}
    answer = httpx.post(server.url + COMPLETION, json=body, timeout=30).json()
    assert answer["choices"][0]["finish_reason"] == "deadline"
    assert 0 < answer["usage"]["completion_tokens"] < 1000
    server.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_hangs(talker: Path, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """Who waits for it beyond its deadline is told so."""
    monkeypatch.setattr("langwright.serving.served.READ_SECONDS", 0.2)
    server = Started(lambda: [open_model("talker", talker, Opening(device="cpu"), 2, 2)], deadline=0.1)
    engine, go = server.service.served["talker"].worker.engine, threading.Event()
    assert engine is not None
    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", lambda: go.wait(20) and {})
        answer = httpx.post(server.url + COMPLETION, json={"prompt": "a", "stream": stream}, timeout=10)
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "timeout_error"
    go.set()
    assert httpx.post(server.url + COMPLETION, json={"prompt": "a", "max_tokens": 1}, timeout=10).status_code == 200
    server.stop()


def test_vectors_have_a_deadline_and_places_in_the_queue(bertha: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not begun by then, or when the caller leaves, is not begun at all."""
    server = Started(lambda: [open_model("bertha", bertha, Opening(device="cpu"), 2, 28)], deadline=0.3)
    url, worker, usual, seen = (
        f"{server.url}/v1/embeddings",
        server.service.served["bertha"].worker,
        Served._vectors,
        [],
    )

    def slow(served: Served, rows: Any) -> Any:
        seen.append((len(rows), worker.texts))
        time.sleep(0.5)
        return usual(served, rows)

    told = httpx.post(url, json={"input": ["a"] * 31})
    assert told.status_code == 400
    assert "31" in told.json()["error"]["message"]
    monkeypatch.setattr(Served, "_vectors", slow)
    assert httpx.post(url, json={"input": ["a"] * 20}).status_code == 504
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json={"input": ["a"] * 20}, timeout=0.1)
    monkeypatch.undo()
    assert httpx.post(url, json={"input": ["a"] * 20}, timeout=10).status_code in (200, 504)
    assert seen[0] == (8, 20)
    assert len(seen) <= 2
    assert worker.texts == 0
    server.stop()


def test_keys(talker: Path, tuned: Path) -> None:
    """Nothing but /health is answered without one, whatever the path; and callers share no beginnings."""
    server = Started(lambda: models(talker, tuned), keys=("alpha", " beta\n"))
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/health").status_code == 200
        for path in (
            COMPLETION,
            "/v1/models",
            "/metrics",
            "/ready",
            "/tokenize",
            "/nothing",
            "//health",
            "/health/",
            "/HEALTH",
        ):
            for value in (
                None,
                "",
                "Bearer",
                "Bearer gamma",
                "Basic alpha",
                "alpha",
                "Bearer alpha beta",
                "Bearer alphaa",
            ):
                headers = {} if value is None else {"authorization": value}
                answer = http.request("POST", path, json={}, headers=headers)
                assert answer.status_code == 401, (path, value)
                assert answer.json()["error"]["type"] == "authentication_error"
        for key in ("alpha", "beta"):
            headers = {"authorization": f"Bearer {key}", "host": "models.example"}
            assert http.get("/v1/models", headers=headers).status_code == 200
    server.stop()


def test_loading(talker: Path) -> None:
    """503 until the models are there, and /health all the time."""

    go, told = threading.Event(), []

    async def serve() -> None:
        bound, service = listen("127.0.0.1", 0), Service()
        url = "http://{}:{}".format(*bound.getsockname())

        def load() -> list[Any]:
            go.wait(20)
            return [open_model("talker", talker, Opening(device="cpu"), 2, 2)]

        task = asyncio.ensure_future(run(service, bound, load, told.append, drain=1))
        async with httpx.AsyncClient() as http:
            await asyncio.sleep(0.3)
            assert (await http.get(url + "/health")).status_code == 200
            for path in ("/ready", "/v1/models"):
                answer = await http.get(url + path)
                assert answer.status_code == 503
                assert answer.json()["error"]["type"] == "unavailable_error"
            go.set()
            while not told:
                await asyncio.sleep(0.01)
            assert told == [url]
            assert (await http.get(url + "/ready")).status_code == 200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(serve())


def test_refused_at_the_start(talker: Path, tmp_path: Path, fails: Fails) -> None:
    fails("serve", talker, "--host", "0.0.0.0", names=("--host", "--api-key"))
    fails("serve", talker, "--api-key", "", names="--api-key")
    fails("serve", talker, "--port", "70000", names="--port")
    fails("serve", talker, "--adapter", "x", names="--adapter")
    fails("serve", talker, talker, names="name")
    fails("serve", tmp_path, "--port", "0", names=str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fails("serve", talker, "--port", taken.getsockname()[1], names="--port")
