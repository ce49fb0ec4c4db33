"""The inside of the sandbox: a script that confines its own process for good, and then runs a program of strangers.

`base/sandbox.py` starts it in a new process and sends the settings on standard input. Nothing but the standard library
is imported. In this order:

1. limits of resources (`setrlimit`), soft and hard;
2. where we are root, another user, without capabilities;
3. `no_new_privs`: no program that this process starts could give rights back;
4. Landlock: files are open for reading in Python's own library, for writing in the current folder alone;
5. seccomp: of the kernel's calls those that a program without network, processes and signals needs.

Sources: landlock(7), seccomp(2), Linux 6.12.
"""

import builtins
import ctypes
import importlib
import json
import os
import resource
import struct
import sys
import types
from collections.abc import Mapping
from functools import partial
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SIGKILL, EPERM, ENOSYS = 9, 1, 38

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights to files an ABI of Landlock knows; 16 from the fifth on."""
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_REG, TRUNCATE = (1 << bit for bit in (0, 1, 2, 3, 5, 8, 14))

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""machine -> its mark in a seccomp filter, its column of the table."""
NEWER = 424
"""From this number on calls are the same everywhere, and old programs expect ENOSYS where there is none."""
CALLS = """
    access 21 -, arch_prctl 158 -, brk 12 214, chdir 80 49, clock_getres 229 114, clock_gettime 228 113,
    clock_nanosleep 230 115, close 3 57, close_range 436 436, creat 85 -, dup 32 23, dup2 33 -, dup3 292 24,
    epoll_create1 291 20, epoll_ctl 233 21, epoll_pwait 281 22, epoll_wait 232 -, eventfd2 290 19, exit 60 93,
    exit_group 231 94, faccessat 269 48, faccessat2 439 439, fadvise64 221 223, fchdir 81 50, fdatasync 75 83,
    flock 73 32, fstat 5 80, fstatfs 138 44, fsync 74 82, ftruncate 77 46, futex 202 98, get_robust_list 274 100,
    getcwd 79 17, getdents 78 -, getdents64 217 61, getegid 108 177, geteuid 107 175, getgid 104 176,
    getitimer 36 102, getpgrp 111 -, getpid 39 172, getppid 110 173, getrandom 318 278, getrlimit 97 163,
    getrusage 98 165, gettid 186 178, gettimeofday 96 169, getuid 102 174, ioctl 16 29, lseek 8 62, lstat 6 -,
    madvise 28 233, membarrier 324 283, mmap 9 222, mprotect 10 226, mremap 25 216, munmap 11 215, nanosleep 35 101,
    newfstatat 262 79, open 2 -, openat 257 56, pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, pread64 17 67,
    pselect6 270 72, pwrite64 18 68, read 0 63, readlink 89 -, readlinkat 267 78, readv 19 65, rename 82 -,
    renameat 264 38, renameat2 316 276, restart_syscall 219 128, rseq 334 293, rt_sigaction 13 134,
    rt_sigprocmask 14 135, rt_sigreturn 15 139, sched_getaffinity 204 123, sched_yield 24 124, select 23 -,
    sendfile 40 71, set_robust_list 273 99, set_tid_address 218 96, setitimer 38 103, sigaltstack 131 132, stat 4 -,
    statfs 137 43, statx 332 291, sysinfo 99 179, time 201 -, times 100 153, umask 95 166, uname 63 160, unlink 87 -,
    unlinkat 263 35, write 1 64, writev 20 66
"""
"""The calls that are open, with their numbers on x86_64 and aarch64.

No call starts a process, opens a socket, sends a signal, makes a folder or a link, changes modes or owners, or asks
for shared memory. A name that is not here is refused: what Linux gains, the guest does not.
"""
GUARDED = (
    ("clone", (56, 220), 16, "set", 0x10000),  # CLONE_THREAD: threads, no processes
    ("prlimit64", (302, 261), 16, "equal", 0),  # of this process; those of the same user could be strangled
    ("fcntl", (72, 25), 24, "unset", 0x3F8),  # without F_SETOWN and F_SETSIG, which send signals to any process
)
"""Calls that are open for some arguments: name, numbers, offset of the argument, test, bits or value."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def landlock_abi() -> int:
    """The version of Landlock in this kernel; 0 where it has none."""
    return max(0, int(_libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))))


def confine(settings: Mapping[str, Any], machine: str) -> None:
    """Give up all that the program does not need; nothing brings it back.

    Args:
        settings: `limits` by the names of `resource`, `user` to become (or None), `parent`, and `landlock`: whether
            files are closed, with `readable`, the paths that are open for reading.
        machine: the architecture.
    """
    for name, value in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if (user := settings["user"]) is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        _control(PR_SET_DUMPABLE, 1)  # Python's library is reached through /proc/self, which would be root's
    _control(PR_SET_PDEATHSIG, SIGKILL)  # forgotten when the user changes, so after it
    if os.getppid() != settings["parent"]:
        os._exit(1)
    _control(PR_SET_NO_NEW_PRIVS, 1)
    if settings["landlock"]:
        _close_files(settings["readable"], landlock_abi())
    code = call_filter(machine)
    program = _Program(len(code) // 8, code)
    _control(PR_SET_SECCOMP, 2, ctypes.byref(program))


def call_filter(machine: str) -> bytes:
    """The seccomp filter, as instructions of 8 bytes: what is not allowed fails with EPERM, or ENOSYS if it is new."""
    mark, column = ARCHITECTURES[machine]
    load, equal, at_least, has_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, error, kill = 0x7FFF0000, 0x00050000, 0x80000000
    code = [(load, 0, 0, 4), (equal, 1, 0, mark), (answer, 0, 0, kill), (load, 0, 0, 0)]
    for _, numbers, offset, test, value in GUARDED:
        taken = (0, 1) if test == "unset" else (1, 0)
        code += [
            (equal, 0, 4, numbers[column]),
            (load, 0, 0, offset),
            (equal if test == "equal" else has_bits, *taken, value),
        ]
        code += [(answer, 0, 0, error | EPERM), (answer, 0, 0, allow)]
    for number in call_numbers(column).values():
        code += [(equal, 0, 1, number), (answer, 0, 0, allow)]
    code += [(at_least, 0, 1, NEWER), (answer, 0, 0, error | ENOSYS), (answer, 0, 0, error | EPERM)]
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def call_numbers(column: int) -> dict[str, int]:
    """The open calls of an architecture, by name."""
    rows = (entry.split() for entry in CALLS.split(","))
    return {name: int(numbers[column]) for name, *numbers in rows if numbers[column] != "-"}


def _close_files(readable: list[str], abi: int) -> None:
    """Landlock: no file is opened but below these paths for reading, and in the current folder for writing."""
    rights = (1 << FILE_RIGHTS.get(abi, 16)) - 1
    ruleset = _Ruleset(rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)  # all of TCP; abstract sockets, signals
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = _called(LANDLOCK_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), 0)
    own = WRITE_FILE | READ_FILE | READ_DIR | REMOVE_FILE | MAKE_REG | TRUNCATE
    for path, wanted in [*((path, EXECUTE | READ_FILE | READ_DIR) for path in readable), (".", own)]:
        if not os.path.exists(path):
            continue
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        wanted &= rights if os.path.isdir(path) else rights & (EXECUTE | READ_FILE)
        _called(LANDLOCK_ADD, rules, 1, ctypes.byref(_Beneath(wanted, folder)), 0)
        os.close(folder)
    _called(LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def _called(number: int, *arguments: Any) -> int:
    """A call of the kernel that must succeed."""
    found: int = _libc.syscall(number, *arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), f"call {number}: {os.strerror(ctypes.get_errno())}")
    return found


def _control(option: int, *arguments: Any) -> None:
    """`prctl`, which must succeed."""
    words = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    """Run the program, then the check in its names; say on the pipe that both went through, or what was raised."""
    settings = json.load(sys.stdin)
    write, leave, told, take = os.write, os._exit, settings["pipe"], settings.pop
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    vars(sys).update(dict.fromkeys(("stdin", "__stdin__"), os.fdopen(0)))  # that of before may remember what it read
    module = types.ModuleType("answer")
    names = vars(module)
    if "doctest" in settings["check"]:
        importlib.import_module("doctest")
    sys.modules["answer"] = module  # where dataclasses look for their names
    confine(settings, os.uname().machine)
    write(told, b"\n")
    try:
        # No name in a frame leads the program to the steps behind it, which use nothing that it can exchange by name.
        for step in (
            partial(exec, compile(take("program"), "program", "exec"), names),
            partial(vars(builtins).update, {**vars(builtins)}),
            partial(sys.modules.update, {name: sys.modules.pop(name) for name in ("doctest",) if name in sys.modules}),
            partial(names.update, __builtins__=vars(builtins)),
            partial(exec, compile(take("check"), "check", "exec"), names),
            sys.stdout.flush,
            partial(write, told, take("nonce").encode()),
        ):
            step()
    except BaseException as error:
        write(told, f"{type(error).__name__}: {error}".encode(errors="replace")[:1000])
        leave(1)
    leave(0)


if __name__ == "__main__":
    main()
