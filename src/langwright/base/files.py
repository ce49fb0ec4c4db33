"""Files that are either whole or not there: atomic writing, checksums, JSON, locks and the two folders of a user."""

import fcntl
import glob
import hashlib
import json
import mmap
import os
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from langwright.base.errors import UserError, first_line

BLOCK_BYTES = 1 << 24
LOCK = ".lock"
"""The file in a folder that carries its lock."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside `path`; the file written there takes the place of `path` when the block ends well.

    A reader, or a crash at any moment, sees the old content or the new, never a mixture. Missing parent folders are
    made. Raises UserError where a folder or, among its parents, a file is in the way.
    """
    refuse_file(path.parent)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, and a file is to be written; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file as `atomic_file` does; text is encoded as UTF-8."""
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes the place of `path` when the block ends without an error.

    Everything in it is on disk before the rename, so a folder called `path` is always complete; a crash between moving
    an old one aside and the rename leaves none. If the block raises, the temporary folder goes and `path` stays as it
    was. Temporary folders of writers that were killed are removed by the next writer of the same path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = _beside(path)
    unlocked = temporary.with_suffix(".new")
    unlocked.mkdir()
    owner = os.open(unlocked, os.O_RDONLY)
    fcntl.flock(owner, fcntl.LOCK_EX)  # shows other writers that this one is alive
    os.rename(unlocked, temporary)
    try:
        yield temporary
        for root, _, names in os.walk(temporary):
            for name in (*names, "."):
                sync(Path(root, name))
        if path.exists():
            os.rename(path, _beside(path))
        os.rename(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(owner)
    _sweep(path)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32_blocks(path: Path) -> list[int]:
    """The CRC-32 of each 16 MiB of a file, several of them at a time."""
    if not path.stat().st_size:
        return []
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        starts = range(0, len(view), BLOCK_BYTES)
        return list(pool.map(lambda start: zlib.crc32(view[start : start + BLOCK_BYTES]), starts))


def read_record(path: Path, what: str, version: int) -> dict[str, Any]:
    """The object in a JSON file of ours, whose `format_version` must be `version`. Raises UserError as `read_json`."""
    record = read_object(path, what)
    found = record.get("format_version")
    if found != version:
        raise UserError(f"{path}: format version {found} is not the version {version} that is read here")
    return record


def checksums(folder: Path, names: Iterable[str]) -> dict[str, object]:
    """What a record says of the files beside it: the SHA-256 of each, and of weights the CRC-32 of each block as well.

    The first identifies them, the second is soon compared: a folder is checked each time it is opened.
    """
    names = list(names)
    weights = [name for name in names if name.endswith(".safetensors")]
    return {
        "checksums": {name: sha256_file(folder / name) for name in names},
        "crc32_blocks": {name: crc32_blocks(folder / name) for name in weights},
    }


def check_files(path: Path, record: Mapping[str, Any], only: str = "") -> None:
    """Compare files with the checksums in a record beside them.

    Args:
        path: The record's file.
        record: What it holds.
        only: An ending; other files are passed over, and so are missing ones. Without it all are compared.

    Raises:
        UserError: Names the file that is missing or differs, or the record without checksums.
    """
    sums, blocks = record.get("checksums"), record.get("crc32_blocks", {})
    if not isinstance(sums, dict) or not isinstance(blocks, dict):
        raise UserError(f"{path}: checksums is no JSON object of files; save them again")
    for name, checksum in sums.items():
        file = path.parent / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path}: checksums names {name!r}, which is no file of this folder")
        if only and not (name.endswith(only) and file.exists()):
            continue
        if not file.exists():
            raise UserError(f"{file}: missing, and {path.name} beside it names it")
        quick = name in blocks
        if (crc32_blocks(file) if quick else sha256_file(file)) != (blocks[name] if quick else checksum):
            raise UserError(f"{file}: broken or replaced, its checksum differs from that in {path.name}")


def read_text(path: Path, what: str) -> str:
    """The text in a UTF-8 file; `what` names its role when it is missing or broken. Raises UserError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {what} is not UTF-8 text: bad byte at offset {error.start}") from None


def standard_input() -> Iterator[str]:
    """The lines of standard input, each with its end. Raises UserError where it is not UTF-8 text."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"standard input:{number}: not UTF-8 text: bad byte {error.start + 1}") from None


def read_json(path: Path, what: str) -> Any:
    """The value in a JSON file; `what` names its role ("the model's config") when it is missing or broken.

    Raises UserError naming the file, and the line where the JSON breaks.
    """
    text = read_text(path, what)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: {what} is not valid JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # brackets too deep, or an integer of too many digits
        raise UserError(f"{path}: {what} cannot be read: {first_line(error)}") from None


def read_object(path: Path, what: str, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; empty where the file is missing and optional. Raises UserError as `read_json`."""
    if optional and not path.exists():
        return {}
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise UserError(f"{path}: {what} is not a JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as JSON, two spaces a level, keys in the order given.

    Raises ValueError for NaN and infinity, which JSON cannot say.
    """
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def cache_folder() -> Path:
    """Where downloads and derived files are kept: $LANGWRIGHT_CACHE, else ~/.cache/langwright."""
    return Path(os.environ.get("LANGWRIGHT_CACHE") or "~/.cache/langwright").expanduser()


def data_folder() -> Path | None:
    """Where real data sets lie on this machine: $LANGWRIGHT_DATA, or None when it is not set."""
    name = os.environ.get("LANGWRIGHT_DATA")
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: LANGWRIGHT_DATA names a folder that does not exist; mend it or unset it")
    return folder


def refuse_file(path: Path) -> None:
    """UserError where a folder is to be and a file, or a link that leads nowhere, is in the way."""
    if any(os.path.lexists(place) and not place.is_dir() for place in (path, *path.parents)):
        raise UserError(f"{path}: a file is in the way, and a folder is to be made; choose another name")


@contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Keep every other process out of `folder` while the block runs; `what` names the activity ("a training run").

    The lock belongs to this process alone and ends with it, however it ends; children that outlive it hold nothing.
    The small file `.lock` that carries it stays, unless the block raises before anything else is new in the folder:
    then the file goes, and the folders that were made for it. Raises UserError when a file is in the way, and one
    naming the owner's process id when the lock is taken.
    """
    refuse_file(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    found = set(os.listdir(folder))
    lock = _take_lock(folder, what)
    _held_locks[lock] = folder
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the folder may be gone, or hold something
            if lock in _held_locks and set(os.listdir(folder)) - found == {LOCK}:
                (folder / LOCK).unlink()
                for place in made:
                    place.rmdir()
        raise
    finally:
        if _held_locks.pop(lock, None):
            os.close(lock)


def _take_lock(folder: Path, what: str) -> int:
    """The descriptor of the lock file, locked; errors as in `folder_lock`."""
    while True:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(folder / LOCK) and os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                return lock
            os.close(lock)  # its owner removed the file between open and flock
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            told = f"{what} is already at work here (process {owner}); wait for it or stop it"
            raise UserError(f"{folder}: {told}") from None
        except OSError as error:
            os.close(lock)
            raise UserError(f"{folder}: cannot be locked: {error.strerror}; choose a folder on a local disk") from None


def check_lock(folder: Path) -> None:
    """Raise UserError when a folder that this process has locked was removed since, or another stands in its place."""
    for lock in (lock for lock, locked in _held_locks.items() if locked == folder):
        try:
            same = os.path.samestat(os.fstat(lock), os.stat(folder / LOCK))
        except FileNotFoundError:
            same = False
        if not same:
            raise UserError(f"{folder}: was removed or replaced while this process was writing to it; it stops here")


_held_locks: dict[int, Path] = {}


def _forget_locks() -> None:
    """In a forked child: close the copies of the parent's locks, so that the child cannot keep them alive."""
    while _held_locks:
        os.close(_held_locks.popitem()[0])


os.register_at_fork(after_in_child=_forget_locks)


def _beside(path: Path) -> Path:
    """A fresh hidden name on the same file system as `path`, so that a rename to `path` is atomic."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _sweep(path: Path) -> None:
    """Remove what dead writers of the folder `path` left behind, and what it has replaced."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # its writer is alive, or another has swept it
            owner = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(owner)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
