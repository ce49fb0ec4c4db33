"""Downloads are whole or not there, and nothing wrong is ever taken for the file."""

import hashlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from langwright.corpora import downloads
from langwright.corpora.downloads import Download, fetch_download
from langwright.corpora.opening import open_corpus
from refusals import refused

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and how often it was asked."""

    content: bytes = CONTENT
    sent: int | None = None  # bytes after which the connection breaks
    status: int = 200
    asked: int = 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behaviour.asked += 1
            self.send_response(behaviour.status)
            self.send_header("Content-Length", str(len(behaviour.content)))
            self.end_headers()
            self.wfile.write(behaviour.content[: behaviour.sent])

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/file", behaviour
        http.shutdown()
        thread.join()


def test_a_whole_file_arrives(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    path = fetch_download("name", Download(server[0], SHA256, ()), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").glob("[!.]*")] == ["name.txt"]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"sent": 1000}, "299000 bytes"), ({"status": 404}, "404"), ({"status": 503}, "503"), (None, "refused")],
)
def test_what_did_not_arrive_leaves_no_file(
    server: tuple[str, Behaviour], tmp_path: Path, change: dict[str, int] | None, told: str
) -> None:
    url, behaviour = server
    vars(behaviour).update(change or {})
    with refused(told, "name.txt"):
        fetch_download("name", Download(url if change else "http://127.0.0.1:9/", SHA256, ()), tmp_path / "new")
    assert not list(tmp_path.rglob("*.*"))


def test_a_kept_download_is_checked_every_time(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    download = Download(url, SHA256, ())
    path = fetch_download("name", download, tmp_path)
    assert fetch_download("name", download, tmp_path) == path
    assert behaviour.asked == 1
    path.write_bytes(b"other")
    with refused("name.txt", SHA256):
        fetch_download("name", download, tmp_path)


def test_without_a_published_checksum_the_first_download_counts(
    server: tuple[str, Behaviour], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, behaviour = server
    download = Download(url, None, ())
    path = fetch_download("name", download, tmp_path)
    assert "no published checksum is known" in capsys.readouterr().err
    assert (tmp_path / "name.sha256").read_text().strip() == SHA256
    path.unlink()
    behaviour.content = b"another text"
    with refused("name.txt", SHA256):
        fetch_download("name", download, tmp_path)


def test_named_corpora_come_from_the_cache(
    server: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour = server
    behaviour.content = b"to be\n<|endoftext|>\nor not"
    monkeypatch.delenv("LANGWRIGHT_DATA", raising=False)
    monkeypatch.setenv("LANGWRIGHT_CACHE", str(tmp_path))
    checksum = hashlib.sha256(behaviour.content).hexdigest()
    monkeypatch.setitem(downloads.DOWNLOADS, "tinyshakespeare", Download(url, checksum, ("text/none.txt",)))
    assert [d.text for d in open_corpus("tinyshakespeare")] == ["to be", "or not"]
    assert (tmp_path / "downloads" / "tinyshakespeare.txt").exists()
    monkeypatch.setenv("LANGWRIGHT_DATA", str(tmp_path))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "none.txt").write_text("local")
    assert [d.text for d in open_corpus("tinyshakespeare")] == ["local"]
    assert behaviour.asked == 1
