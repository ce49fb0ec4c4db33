"""Python programs of strangers, such as what a model wrote, run in a process that can do no harm.

A program has a processor time, a memory, a folder of its own that is emptied afterwards, and nothing else: no network,
no other process, no file but Python's own library. See `base/sandbox_guest.py` for how a process confines itself. It
runs on Linux, with or without root; where the kernel lacks a part of it, that is said once, or refused if files would
be open.

What it does not prevent: names and sizes of files can be asked for, though not what is in them. And program and check
share one process: the check has built-in functions and doctest as they were before the program, and no name leads to
the mark that says that it went through; but a program can still return objects that equal everything, change other
modules which the check or doctest uses, trace or run a thread beside the check, and find the mark in memory (`ctypes`,
`gc`). Whoever scores people rather than models compares values outside.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from langwright.base import sandbox_guest
from langwright.base.console import warn
from langwright.base.errors import UserError

NOBODY = 65534
"""The user that root becomes."""
READABLE = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
"""What the modules of Python's library open: shared libraries, and two devices."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        seconds: of a processor, so that no program fails because the machine is busy.
        clock: seconds by the clock, for those that sleep.
        memory: bytes of addresses. numpy needs 512 MiB, torch several GiB.
        output: bytes of what it prints, and of each file.
        files: how many it may leave in its folder at once.
    """

    seconds: int = 4
    clock: float = 10.0
    memory: int = 512 * 2**20
    output: int = 2**20
    files: int = 64


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Args:
        passed: it and the check ran to their ends.
        reason: what it raised, or which limit ended it; "" where it passed.
        output: what it printed.
    """

    passed: bool
    reason: str
    output: str


def run_python(program: str, check: str = "", limits: Limits = Limits()) -> Outcome:
    """Run a program and then a check, which sees its names, in a process of their own.

    Args:
        program: Python, of which nothing is trusted.
        check: Python; an assertion that fails, as any exception, means that the program does not pass.
        limits: what both may use together.

    Raises:
        UserError: This machine cannot confine programs.
    """
    closes_files, is_root, nonce = _closes_files(), os.geteuid() == 0, secrets.token_hex()
    with ExitStack() as open_now:
        folder = open_now.enter_context(tempfile.TemporaryDirectory())
        output = open_now.enter_context(tempfile.TemporaryFile())
        # Python reaches its library through an open folder, which may lie where only root can go.
        home, inside = (os.open(path, os.O_RDONLY) for path in (sys.base_prefix, folder))
        reader, writer = os.pipe()
        for descriptor in (home, inside, reader):
            open_now.callback(os.close, descriptor)
        if is_root:
            os.chown(folder, NOBODY, NOBODY)
        settings: dict[str, Any] = {
            "program": program, "check": check, "pipe": writer, "nonce": nonce, "parent": os.getpid(),
            "user": NOBODY if is_root else None, "landlock": closes_files,
            "readable": [*(f"/proc/self/fd/{home}/{name}" for name in {"lib", sys.platlibdir}), *READABLE],
            "limits": {
                "RLIMIT_CPU": limits.seconds, "RLIMIT_AS": limits.memory, "RLIMIT_FSIZE": limits.output,
                "RLIMIT_NOFILE": 64, "RLIMIT_NPROC": 512, "RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": 0,
            },
        }  # fmt: skip
        try:
            process = subprocess.Popen(
                [getattr(sys, "_base_executable", sys.executable), "-BsSP", sandbox_guest.__file__],
                stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=folder, pass_fds=(writer, home),
                start_new_session=True, env={
                    "PYTHONHOME": f"/proc/self/fd/{home}", "PYTHONHASHSEED": "0", "PATH": os.defpath, "HOME": folder,
                    "TMPDIR": folder, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                },
            )  # fmt: skip
        finally:
            os.close(writer)
        ended = _watch(process, json.dumps(settings).encode(), inside, limits)
        told = os.read(reader, 4096).decode(errors="replace")
        output.seek(0)
        printed = output.read(limits.output).decode(errors="replace")
    if not told.startswith("\n"):
        lack = _printable(printed)[-500:]
        raise UserError(f"programs of a model cannot be run on this machine: the sandbox did not begin: {lack}")
    if told == "\n" + nonce and process.returncode == 0:
        return Outcome(True, "", printed)
    return Outcome(False, ended or _printable(told) or _death(process.returncode), printed)


@cache
def _closes_files() -> bool:
    """Whether the kernel closes files to a program; UserError where nothing would."""
    if sys.platform != "linux" or os.uname().machine not in sandbox_guest.ARCHITECTURES:
        raise UserError("programs of a model are run on Linux alone (x86_64, aarch64), where the kernel confines them")
    if sandbox_guest.landlock_abi():
        return True
    lack = "this kernel has no Landlock (it is part of Linux from 5.13 on)"
    if os.geteuid() != 0:
        raise UserError(
            f"{lack}: a program of a model could open your files; run as root, who becomes nobody, or newer"
        )
    warn(f"{lack}: programs of a model can read what every user of this machine may read")
    return False


def _watch(process: "subprocess.Popen[bytes]", settings: bytes, folder: int, limits: Limits) -> str:
    """Wait for the end of a process, and bring it about where it breaks a limit; which one is returned."""
    ended, deadline = "", time.monotonic() + limits.clock
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(settings)
        while not ended:
            try:
                process.wait(0.05)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    ended = f"took more than {limits.clock:g} seconds"
                elif len(os.listdir(folder)) > limits.files:
                    ended = f"left more than {limits.files} files"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return ended


def _printable(text: str) -> str:
    """One line, without what would move a terminal's cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _death(code: int) -> str:
    """Why a process ended that said nothing."""
    if code >= 0:
        return f"left with exit code {code} before the check was through"
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return "took more processor time than it may"
    return f"died of signal {-code} ({signal.strsignal(-code)})"
