"""One file from the web, whole or not at all; what an interrupted transfer left is continued."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from langwright.base.console import progress
from langwright.base.errors import UserError
from langwright.base.files import sha256_file

ATTEMPTS = 5
TIMEOUT_SECONDS = 30.0

_BLOCK = 1 << 18


def fetch(url: str, path: Path, sha256: str | None, *, pause: float = 1.0) -> None:
    """Fetch `url` into `path`; the file appears under that name only when it is complete and its checksum right.

    The bytes gather in `path` + ".part". A broken connection is tried again, from where it broke; after `ATTEMPTS`
    tries in a row that brought nothing new a UserError says how far it came, and the next call goes on from there.
    pause: seconds before the second try, doubled before each further one.
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(f"{url}: the server answered {error.code} {error.reason}; try again later") from None
            reason: Exception = error
        except (OSError, http.client.HTTPException) as error:
            reason = error
        failures = failures + 1 if _size(part) == before else 0
        if failures == ATTEMPTS:
            raise UserError(
                f"{url}: the download stopped after {_size(part)} bytes: {_say(reason)}; "
                f"run the same command again to go on, or put the file at {path}"
            )
        time.sleep(pause * 2 ** max(failures - 1, 0))
    _accept(part, path, sha256, url)


def _continue(url: str, part: Path) -> None:
    """One connection: append what is missing to `part`. Raises OSError when it ends too soon."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if _total(error.headers.get("Content-Range")) != start:
            part.unlink()  # not the beginning of this file: start afresh
            _continue(url, part)
        return
    with response:
        if response.status == 200:
            start = 0  # the server cannot continue
        elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            raise ConnectionError(f"the server sent another part than that from byte {start}")
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with progress(f"fetching {part.stem}", total, "bytes") as advance:
            advance(start)
            _copy(response, part, start, advance)
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection closed {total - _size(part)} bytes before the end")


def _copy(response: http.client.HTTPResponse, part: Path, start: int, advance: Callable[[int], None]) -> None:
    with part.open("ab" if start else "wb") as file:
        while block := response.read(_BLOCK):
            file.write(block)
            advance(len(block))


def _accept(part: Path, path: Path, sha256: str | None, url: str) -> None:
    found = sha256_file(part)
    if sha256 is not None and found != sha256:
        part.unlink()
        raise UserError(f"{url}: the checksum is wrong: {found}, not {sha256}; the download was removed, try again")
    part.replace(path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _total(content_range: str | None) -> int | None:
    """The size of the whole file from "bytes */1234"."""
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _say(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__
