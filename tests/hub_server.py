"""A Hub of our own on this machine: the few answers that `huggingface_hub` asks for, and the faults of a real one."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

Files = dict[str, bytes]


class Hub:
    """Repositories with their commits.

    commits: repository -> commit -> files. branches: repository -> name -> commit.
    gated: repositories whose files need a login. refused: files that are not given. down: the answer to everything.
    cut: break the connection once, after so many bytes, when a file of this name is sent.
    seen: (method, path, Range) of every request.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.refused: set[str] = set()
        self.down: int | None = None
        self.cut: dict[str, int] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.endpoint = ""

    def push(self, repository: str, files: Files, branch: str = "main") -> str:
        """A new commit on a branch."""
        commit = hashlib.sha1(repr((repository, sorted(files.items()))).encode()).hexdigest()
        self.commits.setdefault(repository, {})[commit] = files
        self.branches.setdefault(repository, {})[branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """Names of the files that were sent, in order."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for method, path, _ in self.seen if sent(method, path)]


def sent(method: str, path: str) -> bool:
    return method == "GET" and "/resolve/" in path


def use(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process ask that Hub, with this cache, and remember nothing."""
    import huggingface_hub.constants as constants

    address = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    connect(True, monkeypatch)


def connect(online: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process with or without HF_HUB_OFFLINE."""
    import huggingface_hub.constants as constants

    from langwright.base import hub

    hub._look_up.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not online)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the Hub on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.split("?")[0]
            hub.seen.append((self.command, path, self.headers.get("Range")))
            if hub.down is not None:
                return self.send(hub.down, {}, b"")
            if path.startswith("/api/models/"):
                repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
                found = self.commit(repository, revision or "main")
                if found is None:
                    return None
                siblings = [{"rfilename": n, "size": len(b)} for n, b in hub.commits[repository][found].items()]
                body = json.dumps({"id": repository, "sha": found, "siblings": siblings, "tags": []}).encode()
                return self.send(200, {"Content-Type": "application/json"}, body)
            repository, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            found = self.commit(repository, revision)
            if found is None:
                return None
            if repository in hub.gated:
                return self.send(403, {"X-Error-Code": "GatedRepo"}, b"")
            if name in hub.refused:
                return self.send(403, {}, b"")
            if name not in hub.commits[repository][found]:
                return self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found}, b"")
            return self.send_file(name, found, hub.commits[repository][found][name])

        def commit(self, repository: str, revision: str) -> str | None:
            """The commit of a revision, or an answer that says what is not there."""
            if repository not in hub.commits:
                self.send(401, {"X-Error-Code": "RepoNotFound"}, b"")
                return None
            found = hub.branches[repository].get(unquote(revision), revision)
            if found not in hub.commits[repository]:
                self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"")
                return None
            return found

        def send_file(self, name: str, commit: str, content: bytes) -> None:
            headers = {
                "X-Repo-Commit": commit,
                "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
                "Accept-Ranges": "bytes",
            }
            start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            stop = hub.cut.pop(name, None) if self.command == "GET" else None
            self.send(206 if start else 200, headers, content[start:], stop)

        def send(self, status: int, headers: dict[str, str], body: bytes, stop: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:stop])
            if stop is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
