"""Downloads survive a broken connection, and nothing wrong is ever taken for the file."""

import hashlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from langwright.base.errors import UserError
from langwright.corpora import downloads
from langwright.corpora.downloads import Download, fetch_download
from langwright.corpora.fetching import ATTEMPTS, fetch
from langwright.corpora.opening import open_corpus

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does; `ranges` is what it was asked for."""

    content: bytes = CONTENT
    breaks: list[int] = field(default_factory=list)  # bytes sent before each of the next connections breaks
    ranges_work: bool = True
    status: int = 200
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            behaviour.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and behaviour.ranges_work else 0
            total = len(behaviour.content)
            if behaviour.status != 200:
                self.send_error(behaviour.status)
                return
            if start and start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(total - start))
            self.end_headers()
            stop = start + behaviour.breaks.pop(0) if behaviour.breaks else total
            self.wfile.write(behaviour.content[start:stop])

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
    url, behaviour = server
    fetch(url, tmp_path / "new" / "file", SHA256)
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert behaviour.ranges == [None]


def test_a_broken_transfer_goes_on_where_it_broke(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.breaks = [100_000, 50_000]
    fetch(url, tmp_path / "file", SHA256, pause=0)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert behaviour.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_giving_up_keeps_what_came_for_the_next_run(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.breaks = [1000, *[0] * ATTEMPTS]
    with pytest.raises(UserError, match=r"stopped after 1000 bytes: .*run the same command again to go on"):
        fetch(url, tmp_path / "file", SHA256, pause=0)
    assert not (tmp_path / "file").exists()
    fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert behaviour.ranges[-1] == "bytes=1000-"


def test_a_server_that_cannot_continue_starts_afresh(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.ranges_work = False
    (tmp_path / "file.part").write_bytes(b"junk" * 10)
    fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_already_long_enough(server: tuple[str, Behaviour], tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.part").write_bytes(part)
    fetch(server[0], tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.content = CONTENT[:-1] + b"?"
    with pytest.raises(UserError, match=f"the checksum is wrong: .*, not {SHA256}"):
        fetch(url, tmp_path / "file", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_not_tried_again(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.status = 404
    with pytest.raises(UserError, match="the server answered 404"):
        fetch(url, tmp_path / "file", SHA256)
    assert len(behaviour.ranges) == 1


@pytest.mark.parametrize("status", [503, None])
def test_a_server_in_trouble_is_tried_again(server: tuple[str, Behaviour], tmp_path: Path, status: int | None) -> None:
    url, behaviour = server
    behaviour.status = status or 200
    address = url if status else "http://127.0.0.1:9/nobody-listens"
    with pytest.raises(UserError, match="stopped after 0 bytes"):
        fetch(address, tmp_path / "file", SHA256, pause=0)
    assert len(behaviour.ranges) == (ATTEMPTS if status else 0)


def test_a_kept_download_is_checked_every_time(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    download = Download(url, SHA256, ())
    path = fetch_download("name", download, tmp_path)
    assert fetch_download("name", download, tmp_path) == path
    assert len(behaviour.ranges) == 1
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=r"name.txt: the file was changed or damaged .*delete it"):
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
    with pytest.raises(UserError, match="the checksum is wrong"):
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
    assert len(behaviour.ranges) == 1
