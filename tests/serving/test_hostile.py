"""Hostile callers of a real process: nobody gets in, nothing is lost, and memory stays as it is."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langwright.models.folder import save_model
from langwright.pipelines.opening import Opening
from langwright.serving.bodies import ChatBody, CompletionBody
from langwright.text.tokenizer import Tokenizer
from serving.conftest import ENDLESS  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow
KEY, QUEUE = "correct horse", 256
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"


class Process:
    """A server of its own."""

    def __init__(self, folder: Path, *words: str):
        command = [sys.executable, "-m", "langwright", "serve", str(folder), "--port", "0", "--api-key", KEY, *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), self.process.communicate(timeout=10)
        self.url = line.removeprefix("listening on ").strip()
        self.http = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def rss(self) -> float:
        """Megabytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    def open_texts(self) -> int:
        found = self.http.get("/metrics").text.partition("langwright_open_texts{")[2]
        return int(float(found.partition("} ")[2].partition("\n")[0]))

    def usual(self) -> float:
        """Seconds of a normal request, which must be answered."""
        began = time.monotonic()
        answer = self.http.post(COMPLETION, json={"prompt": "One cat", "max_tokens": 16, "temperature": 0})
        assert answer.status_code == 200, answer.text
        return time.monotonic() - began

    def send(self, path: str, body: Any) -> socket.socket:
        """A request whose answer is not waited for."""
        data = json.dumps(body).encode()
        caller = socket.create_connection(self.address)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        caller.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        return caller

    def stop(self) -> tuple[int, str]:
        """The exit code after SIGTERM, and what was said on stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def server(talker: Path) -> Iterator[Process]:
    process = Process(talker, "--batch", "8", "--queue", str(QUEUE), "--longest", "256", "--deadline", "20")
    process.usual()
    yield process
    code, said = process.stop()
    assert code == 0
    assert "Traceback" not in said, said


SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=9), v, max_size=4))
FIELDS = (*CompletionBody.model_fields, *ChatBody.model_fields, "input", "tokens", "encoding_format", "user")
NORMAL: dict[str, dict[str, Any]] = {
    COMPLETION: {"prompt": "a", "max_tokens": 2},
    CHAT: {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    "/v1/embeddings": {"input": "a"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1, 2]},
}
LIKELY = (
    st.integers(-2, 300) | st.floats(-1, 3) | st.lists(st.integers(0, 300), max_size=4) | st.lists(st.text(max_size=4))
    | st.dictionaries(st.sampled_from(["type", "65", "schema", "json_schema", "regex", "role", "content"]), SCALARS)
    | st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool", "x"]), "content": SCALARS}), max_size=3)
)  # fmt: skip


def test_fuzzed_bodies(server: Process) -> None:
    """Every answer is one of those that the interface has, and none is a mistake of the server."""
    seen: set[int] = set()
    changes = st.dictionaries(st.sampled_from(FIELDS), VALUES | LIKELY, max_size=3)

    @settings(max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(NORMAL)), changes, st.booleans())
    def fuzz(path: str, changed: dict[str, Any], normal: bool) -> None:
        body = {**(NORMAL[path] if normal else {}), **changed}
        content = json.dumps(body).encode("utf-8", "replace")
        answer = server.http.post(path, content=content, headers={"content-type": "application/json"})
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400, 404), (body, answer.text)
        if answer.status_code != 200:
            assert answer.json()["error"].keys() == {"message", "type", "code"}

    fuzz()
    assert seen >= {200, 400}

    @settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(NORMAL)), st.binary(max_size=200))
    def noise(path: str, content: bytes) -> None:
        answer = server.http.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400

    noise()
    server.usual()


NOISE = [
    b"\0" * 100,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET " + b"/" * 70_000,
    b"GET /health" + b"?" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /health HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 9000 + b"\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
]


def test_bytes_that_are_no_http(server: Process) -> None:
    for noise in NOISE:
        with socket.create_connection(server.address, timeout=20) as caller:
            caller.sendall(noise)
            answer = caller.recv(100)
        assert answer == b"" or answer.split(b" ")[1] in (b"400", b"401", b"431"), (noise[:40], answer)
    server.usual()


PATHS = (
    "/", "/v1/models", "/health/../v1/models", "/health%2f..%2fv1/models", "//v1/models", "/metrics", "/ready",
    "/tokenize", "/v1/models/%2e%2e", "/..%5c..%5cetc/passwd", "/%00", "/health%00", "/Health", "/health;x",
)  # fmt: skip
WRONG = (b"", b"x", KEY[:-1].encode(), KEY.encode() + b"x", b"Bearer", KEY.upper().encode(), b"\xe9" * 5000)


def test_keys_and_paths(server: Process) -> None:
    with httpx.Client(base_url=server.url) as stranger:
        assert stranger.get("/health?x").status_code == 200
        for path in PATHS:
            assert stranger.get(path).status_code == 401, path
        for key in WRONG:
            answer = stranger.get("/v1/models", headers={b"authorization": b"Bearer" + b" " * bool(key) + key})
            assert answer.status_code == 401, key
    assert server.http.get("/v1/models/..%2f..%2fetc").status_code == 404


HOSTILE_FORMS: list[dict[str, Any]] = [
    *({"structured_outputs": {"regex": regex}} for regex in (
        "(a+)+$", "(a|a)*b", "a{1000}{1000}{1000}", "((a{1,99}){1,99}){1,99}", "(" * 9000, "[" * 100, "\\", "(?=a)b",
        ".{49000}", "(x+x+)+y", "\\p{L}{500}{50}", "(?:" * 500 + "a" + ")*" * 500, "[^a]{5000}(b|c){5000}",
    )),
    *({"structured_outputs": {"grammar": grammar}} for grammar in (
        "start: start", "start: a\na: b\nb: a", "start: " + "(" * 5000 + '"a"' + ")" * 5000, "start: \"a\"~1..99999999",
        "start: x0\n" + "\n".join(f"x{i}: x{i + 1} x{i + 1}" for i in range(600)), "start: /(a+)+/", "%import python",
        "", 'start: @x', "start: s s s s\ns: | s s \"a\"",
    )),
    *({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}} for schema in (
        {"$ref": "#"}, {"$ref": "file:///etc/passwd"}, {"$ref": "http://127.0.0.1/"}, {"allOf": [{"$ref": "#"}] * 50},
        {"type": "string", "pattern": "(a+)+$" * 100}, {"type": "string", "minLength": 10**9},
        {"enum": list(range(5000))}, {"type": "array", "minItems": 10**8},
        {"anyOf": [{"const": str(i) * 20} for i in range(1500)]},
        {"properties": {f"p{i}": {"type": "string"} for i in range(1200)}, "type": "object"}, {"not": {}},
        {"type": "integer", "minimum": 10**300, "multipleOf": 7}, {"patternProperties": {"(": {}}}, {"x-guidance": {}},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    )),
]  # fmt: skip


def test_hostile_forms(server: Process) -> None:
    """A form is kept to or refused, soon, and never given up silently; others are served meanwhile."""
    for form in HOSTILE_FORMS:
        began = time.monotonic()
        answer = server.http.post(COMPLETION, json={"prompt": "a", "max_tokens": 4, **form})
        assert time.monotonic() - began < 15, form
        assert answer.status_code in (200, 400, 500), (form, answer.text)
        if answer.status_code == 500:  # its work is bounded in the middle of a text too
            assert answer.json()["error"]["code"] == "engine_error"
    assert server.usual() < 2


def test_slow_senders_are_cut_off(server: Process) -> None:
    """Meanwhile others are served."""
    head = f"POST {COMPLETION} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    silent = [socket.create_connection(server.address) for _ in range(50)]
    heads = [socket.create_connection(server.address) for _ in range(50)]
    bodies = [socket.create_connection(server.address) for _ in range(50)]
    for caller in heads:
        caller.sendall(head[:60].encode())
    for caller in bodies:
        caller.sendall(f"{head}content-length: 1000\r\n\r\n".encode() + b'{"prompt": "')
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < 8:
        for caller in (*heads, *bodies):
            caller.sendall(b"a")
        assert server.usual() < 2
        time.sleep(0.5)
    for caller in (*silent, *heads, *bodies):
        caller.settimeout(40 - elapsed)
    assert all(caller.recv(99) == b"" for caller in (*silent, *heads))
    assert all(caller.recv(99).startswith(b"HTTP/1.1 408") for caller in bodies)
    assert time.monotonic() - began < 40


def storm(server: Process) -> None:
    """Two hundred callers of long texts, who leave at once or soon, some of them without reading."""
    callers = []
    for number in range(200):
        body = {"prompt": "One cat", "max_tokens": 900, "logit_bias": ENDLESS, "stream": number % 2 == 0, "n": 1}
        callers.append(server.send(COMPLETION, body))
    time.sleep(0.5)
    for caller in callers:
        caller.close()


def test_a_storm_of_callers_who_leave(server: Process) -> None:
    usual = sorted(server.usual() for _ in range(5))[2]
    for _ in range(2):
        storm(server)
        before = server.rss()
        assert server.usual() < max(3 * usual, usual + 1.0)
        assert server.open_texts() == 0
    for _ in range(3):
        storm(server)
    server.usual()
    assert server.rss() < before + 20


def test_large_bodies_of_callers_who_leave(server: Process) -> None:
    """They hold up nobody: neither what they ask for nor the line before it."""
    for prompt in (" " * 4_000_000, [" " * 12_000] * 60, ["a b " * 3_000] * 60):
        for path in (COMPLETION, "/tokenize"):
            for _ in range(8):
                server.send(path, {"prompt": prompt}).close()
        assert server.usual() < 3
    assert server.open_texts() == 0


def test_a_queue_that_overflows(server: Process) -> None:
    body = {"prompt": "One cat", "max_tokens": 12, "temperature": 0, "logit_bias": ENDLESS}
    headers = {"authorization": f"Bearer {KEY}"}
    with ThreadPoolExecutor(64) as pool:
        asked = [{**body, "n": 8, "temperature": 1, "seed": 3} for _ in range(64)]
        answers = list(
            pool.map(lambda b: httpx.post(server.url + COMPLETION, json=b, headers=headers, timeout=90), asked)
        )
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)
    whole = [answer.json() for answer in answers if answer.status_code == 200]
    assert len({json.dumps(answer["choices"]) for answer in whole}) == 1
    assert all(len(answer["choices"]) == 8 for answer in whole)
    assert server.open_texts() == 0


def test_huge_bodies(server: Process) -> None:
    """413, or a connection that is closed before all is sent."""
    before = server.rss()

    def parts() -> Iterator[bytes]:
        for _ in range(64):
            yield b"a" * (1 << 20)

    def is_refused(content: Any) -> bool:
        try:
            answer = server.http.post(COMPLETION, content=content, headers={"content-type": "application/json"})
        except httpx.TransportError:
            return True
        return answer.status_code == 413

    for _ in range(5):
        assert is_refused(b"a" * (64 << 20))
        assert is_refused(parts())
    deep = b'{"prompt": "a", "response_format": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}"
    assert server.http.post(COMPLETION, content=deep, headers={"content-type": "application/json"}).status_code == 400
    server.usual()
    assert server.rss() < before + 40


TEMPLATES = {
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch /tmp/x').read() }}",
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}",
    "long": "{% for i in range(99999) %}{% for j in range(99999) %}" + "x" * 200 + "{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_hostile_templates(name: str, talker: Path, tmp_path: Path) -> None:
    """A folder's own template that escapes, never ends or writes too much is refused; the server lives on."""
    model, tokenizer = Opening(device="cpu").open(talker)
    assert isinstance(tokenizer, Tokenizer)
    save_model(model, tokenizer.extended((), tokenizer.special_tokens, TEMPLATES[name], tokenizer.ends), tmp_path / "m")
    server = Process(tmp_path / "m")
    answer = server.http.post(CHAT, json={"messages": [{"role": "user", "content": "a"}]})
    assert answer.status_code in (400, 503), answer.text
    assert server.usual() < 2
    assert server.rss() < 2000
    assert server.stop()[0] == 0


def test_what_has_begun_is_finished(talker: Path) -> None:
    """SIGTERM in the middle of a stream: it comes to its end, nobody new is let in, and the exit code is 0."""
    server = Process(talker, "--drain", "20")
    body = {"prompt": "a", "max_tokens": 600, "stream": True, "logit_bias": ENDLESS}
    with server.http.stream("POST", COMPLETION, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/health")
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    server.http.close()
    assert server.process.wait(20) == 0
