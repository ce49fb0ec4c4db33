"""Atomic writing, JSON, folders and locks."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from langwright.base import files
from langwright.base.errors import UserError
from langwright.base.files import (
    atomic_folder,
    cache_folder,
    check_lock,
    crc32_blocks,
    data_folder,
    folder_lock,
    read_json,
    refuse_file,
    sha256_file,
    write_atomic,
    write_json,
)
from refusals import refused


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic_makes_parents_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "first")
    write_atomic(path, "zwölf")
    write_atomic(tmp_path / "a" / "c.bin", b"\x00\xff")
    assert path.read_bytes() == "zwölf".encode()
    assert names(path.parent) == ["b.txt", "c.bin"]


def test_write_atomic_honours_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_midway_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_told_by_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with refused(f"{tmp_path / 'file'}: ", "No space left"):
        write_atomic(tmp_path / "file", "text")
    assert names(tmp_path) == []


def test_write_atomic_has_the_bytes_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(files.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    write_atomic(tmp_path / "file", "x")
    assert calls == ["fsync", "replace", "fsync"]


def write_folder(path: Path, content: str) -> None:
    with atomic_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(content)


def test_atomic_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_folder(path) as folder:
        (folder / "file").write_text("x")
        assert not path.exists()
    assert names(tmp_path) == ["out"]
    assert names(path) == ["file"]


def test_atomic_folder_replaces_the_old_one_entirely(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "stale").write_text("x")
    write_folder(path, "new")
    assert names(path) == ["inner"]
    assert names(tmp_path) == ["out"]


def test_atomic_folder_removes_its_work_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_folder(path, "old")

    def half() -> None:
        with atomic_folder(path) as folder:
            (folder / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert (path / "inner" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_everything_in_the_folder_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = files.sync, os.rename
    monkeypatch.setattr(files, "sync", lambda path: (done.append(path.name), sync(path))[1])
    monkeypatch.setattr(files.os, "rename", lambda a, b: (done.append(f"rename to {b.name}"), rename(a, b))[1])
    write_folder(tmp_path / "out", "x")
    assert {"file", "inner"} < set(done[: done.index("rename to out")])


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from langwright.base import files

with files.atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_sigkill_the_old_folder_is_there_and_the_next_writer_sweeps(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_folder(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (path / "inner" / "file").read_text() == "old"
    assert len(names(tmp_path)) == 2
    write_folder(path, "new")
    assert (path / "inner" / "file").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_the_sweep_spares_a_living_writer(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_folder(path) as folder:
        (folder / "file").write_text("slow")
        write_folder(path, "quick")
        assert (folder / "file").exists()
    assert names(path) == ["file"]


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_round_trip_keeps_order_and_letters(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"z": 1, "a": ["é", None, 0.1]}
    write_json(path, value)
    assert path.read_text().startswith('{\n  "z": 1')
    assert "é" in path.read_text()
    assert list(read_json(path, "the config")) == ["z", "a"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == value


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (None, "a.json: the config"),
        (b'{"a": 1,\n "b": }', "a.json:2: the config"),
        (b"\xff", "offset 0"),
        (b"[" * 100_000, "a.json: the config"),
        (b"1" * 5_000, "a.json: the config"),
    ],
)
def test_read_json_names_file_and_line(tmp_path: Path, content: bytes | None, place: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with refused("a.json", "the config", place):
        read_json(path, "the config")
    with refused(f"{tmp_path}: the config"):
        read_json(tmp_path, "the config")


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGWRIGHT_CACHE", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c"
    monkeypatch.delenv("LANGWRIGHT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "langwright"


LOCK_HOLDER = """
import os, sys, time
from pathlib import Path
from langwright.base.files import folder_lock

with folder_lock(Path(sys.argv[1]), "a training run"):
    if sys.argv[2] == "fork":
        there, begun = os.pipe()
        if os.fork() == 0:
            os.close(1)
            os.write(begun, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(there, 1)  # a child that was not given the processor yet has had no time to let go
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_locked_folder_that_was_removed_or_replaced_is_noticed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_lock(out)  # it is not ours: nothing to say
    with folder_lock(out, "a training run"):
        check_lock(out)
        shutil.rmtree(out)
        with pytest.raises(UserError, match=re.escape(str(out))):
            check_lock(out)
        out.mkdir()
        (out / ".lock").touch()
        with pytest.raises(UserError, match=re.escape(str(out))):
            check_lock(out)


@pytest.mark.parametrize("children", ["none", "fork"])
def test_the_lock_names_its_owner_and_dies_with_it(tmp_path: Path, children: str) -> None:
    command = [sys.executable, "-c", LOCK_HOLDER, str(tmp_path), children]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=rf"a training run is already at work here \(process {holder.pid}\)"),
            folder_lock(tmp_path, "a training run"),
        ):
            pass
        holder.kill()
        holder.wait()
        with folder_lock(tmp_path, "a training run"):
            assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    finally:
        holder.stdout and holder.stdout.close()
        os.killpg(holder.pid, signal.SIGKILL) if children == "fork" else holder.kill()
        holder.wait()


FORKING_OWNER = """
import os, sys
from pathlib import Path
from langwright.base.errors import UserError
from langwright.base.files import folder_lock

folder, child = Path(sys.argv[1]), None
with folder_lock(folder, "a run"):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        try:
            with folder_lock(folder, "a run"):
                print("taken twice")
        except UserError:
            print("still held")
if child:
    with folder_lock(folder, "a run"):
        print("free again")
"""


def test_a_child_that_leaves_the_block_does_not_free_its_parents_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING_OWNER, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "still held\nfree again\n"


def test_each_block_of_a_file_has_a_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 100)
    data = os.urandom(250)
    (tmp_path / "a").write_bytes(data)
    assert crc32_blocks(tmp_path / "a") == [zlib.crc32(data[at : at + 100]) for at in (0, 100, 200)]
    (tmp_path / "a").write_bytes(b"")
    assert crc32_blocks(tmp_path / "a") == []


@pytest.mark.parametrize("there", ["nothing", "the folder", "an old lock", "a file"])
def test_a_refusal_under_the_lock_leaves_the_disk_as_it_was(tmp_path: Path, there: str) -> None:
    folder = tmp_path / "a" / "b"
    if there != "nothing":
        folder.mkdir(parents=True)
    if there in ("an old lock", "a file"):
        (folder / (".lock" if there == "an old lock" else "mine")).write_text("")
    with pytest.raises(UserError, match="no"), folder_lock(folder, "a run"):
        raise UserError("no")
    assert folder.exists() == (tmp_path / "a").exists() == (there != "nothing")
    left = {"an old lock": [".lock"], "a file": ["mine"]}
    assert not folder.exists() or names(folder) == left.get(there, [])
    with folder_lock(folder, "a run"):
        (folder / "work").write_text("")
    with pytest.raises(UserError, match="no"), folder_lock(folder, "a run"):
        raise UserError("no")
    assert (folder / "work").exists()


WAITING = """
import sys
from pathlib import Path
from langwright.base import files

folder, flock, done = Path(sys.argv[1]), files.fcntl.flock, []

def late(lock, how):
    if not done:  # the owner removes the lock file after we have opened it
        done.append((folder / ".lock").unlink())
    flock(lock, how)

files.fcntl.flock = late
with files.folder_lock(folder, "a run"):
    print((folder / ".lock").exists())
"""


def test_a_lock_file_that_was_removed_locks_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"


def test_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGWRIGHT_DATA", raising=False)
    assert data_folder() is None
    monkeypatch.setenv("LANGWRIGHT_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.setenv("LANGWRIGHT_DATA", str(tmp_path / "no"))
    with refused("LANGWRIGHT_DATA"):
        data_folder()


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "file/below/that", "nowhere"):
        with refused(f"{name}: a file is in the way"):
            refuse_file(tmp_path / name)
        with refused(f"{name}: a file is in the way"), folder_lock(tmp_path / name, "a test"):
            pass
    refuse_file(tmp_path / "a/b")


def test_a_folder_in_the_way_of_a_file(tmp_path: Path) -> None:
    with refused(f"{tmp_path}: is a folder"):
        write_atomic(tmp_path, "text")
    write_atomic(tmp_path / "file", "text")
    with refused(f"{tmp_path}/file: a file is in the way"):
        write_atomic(tmp_path / "file" / "below", "text")
