"""The sandbox: honest programs run, hostile ones fail, and the host is as it was."""

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from langwright.alignment.rules import check_of
from langwright.base import sandbox
from langwright.base.sandbox import Limits, Outcome, run_python
from langwright.base.sandbox_guest import ARCHITECTURES, GUARDED, call_numbers
from refusals import refused

QUICK = Limits(seconds=1, clock=4)


pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ARCHITECTURES, reason="SKIPPED: the sandbox is of Linux"
)


def test_a_program_passes_where_it_and_its_check_run_through() -> None:
    assert run_python("def f(x):\n    return 2 * x\nprint('é')", "assert f(2) == 4") == Outcome(True, "", "é\n")
    assert (
        run_python("def f(x):\n    return 2 * x", "assert f(2) == 5, 'not five'").reason == "AssertionError: not five"
    )
    assert run_python("def f(x)", "pass").reason.startswith("SyntaxError")


def test_what_honest_programs_need_is_there() -> None:
    program = """
import asyncio.futures, bisect, collections, ctypes, dataclasses, decimal, fractions, functools, hashlib, heapq, io
import itertools, json, math, random, re, sqlite3, statistics, string, tempfile, threading, typing, unicodedata, zlib
@dataclasses.dataclass
class Point:
    x: "int"
seen = []
thread = threading.Thread(target=seen.append, args=(Point(3),))
thread.start()
thread.join()
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("x")
open("own.txt", "w").write("y")
assert open("own.txt").read() == "y"
"""
    assert run_python(program, "assert seen[0].x == 3\nimport unittest, doctest") == Outcome(True, "", "")


HOSTILE = {
    "leaves early": ("import os; os._exit(0)", "exit code 0"),
    "exits": ("raise SystemExit(0)", "SystemExit"),
    "dies": ("import ctypes; ctypes.string_at(1)", "signal 11"),
    "never ends": ("while True:\n    try:\n        int('x')\n    except BaseException:\n        pass", "processor"),
    "sleeps": ("import time; time.sleep(60)", "4 seconds"),
    "takes all memory": ("x = bytearray(4 << 30)", "MemoryError"),
    "forks": ("import os\nwhile True:\n    os.fork()", "PermissionError"),
    "starts a program": ("import subprocess; subprocess.run(['/bin/true'])", "PermissionError"),
    "becomes a program": ("import os; os.execv('/bin/true', ['true'])", "PermissionError"),
    "prints without end": ("while True:\n    print('x' * 9999)", "too large"),
    "floods files": ("n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'w').close()", "64 files"),
    "fills a file": ("f = open('f', 'wb')\nwhile True:\n    f.write(bytes(99999))", "too large"),
    "reads the users": ("open('/etc/passwd').read()", "PermissionError"),
    "reads the home folder": (f"import os; os.listdir({str(Path.home())!r})", "PermissionError"),
    "reads memory": ("import os; open(f'/proc/{os.getppid()}/mem', 'rb')", "PermissionError"),
    "reads the environment": ("open('/proc/self/environ').read()", "PermissionError"),
    "connects": ("import socket; socket.create_connection(('127.0.0.1', 80))", "PermissionError"),
    "sends a datagram": ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "PermissionError"),
    "kills its parent": ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", "PermissionError"),
    "has its parent killed": (
        "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        "Permission",
    ),
    "strangles its parent": (
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "PermissionError",
    ),
    "lifts its limits": ("import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))", "Error"),
    "becomes root": ("import os; os.setuid(0)", "PermissionError"),
    "makes a link": ("import os; os.symlink('/etc/passwd', 'f')", "PermissionError"),
    "makes a hard link": ("import os; os.link('/etc/hostname', 'f')", "PermissionError"),
    "changes modes": ("import os; os.chmod('.', 0o777)", "PermissionError"),
    "writes outside": ("open('../outside', 'w')", "PermissionError"),
    "writes to Python": ("import os; open(os.__file__, 'a')", "PermissionError"),
    "moves a file in": ("import os; os.rename('/etc/hostname', 'f')", "Error"),
}


@pytest.mark.parametrize(("program", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_programs_fail(program: str, reason: str) -> None:
    found = run_python(program, "", QUICK)
    assert not found.passed
    assert reason.lower() in found.reason.lower(), found
    assert len(found.output) <= QUICK.output


SUM = "assert sum([1, 1]) == 3"  # which is false
DOCTEST = check_of(">>> 1 + 1\n3\n")
FORGED = {
    "builtins": ("import builtins\nbuiltins.sum = lambda values: 3", SUM),
    "its builtins": ("__builtins__ = {**vars(__import__('builtins')), 'sum': lambda values: 3}", SUM),
    "the runner": (
        "import doctest\ndoctest.DocTestRunner.run = lambda *_, **more: doctest.TestResults(0, 1)",
        DOCTEST,
    ),
    "the checker": ("import doctest\ndoctest.OutputChecker.check_output = lambda *_: True", DOCTEST),
    "the module": ("import sys\nsys.modules['doctest'] = sys.modules['answer']", DOCTEST),
    "the check": (
        "import sys\nframe = sys._getframe()\nwhile frame := frame.f_back:\n"
        "    for value in frame.f_locals.values():\n"
        "        if isinstance(value, dict) and 'check' in value: value['check'] = ''",
        SUM,
    ),
    "names of the sandbox": (
        "import builtins, sys\nbuiltins.sum = lambda values: 3\n"
        "for name in ('exec', 'vars', 'builtins', 'partial', 'print'):\n"
        "    sys._getframe(1).f_globals[name] = lambda *_: {}",
        SUM,
    ),
    "the mark": (
        "import os, sys\nframe = sys._getframe()\nwhile frame := frame.f_back:\n"
        "    for value in frame.f_locals.values():\n"
        "        text = value.decode() if isinstance(value, bytes) else value\n"
        "        if isinstance(text, str) and len(text) == 64:\n"
        "            os.write(frame.f_locals['told'], text.encode())\n            os._exit(0)",
        SUM,
    ),
}


@pytest.mark.parametrize(("program", "check"), FORGED.values(), ids=FORGED)
def test_a_program_that_forges_its_check_fails(program: str, check: str) -> None:
    found = run_python(program, check, QUICK)
    assert not found.passed
    assert found.reason.startswith("AssertionError"), found


def test_a_sandbox_that_does_not_begin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_base_executable", "/bin/false")
    with refused("sandbox"):
        run_python("")


def test_calls_without_a_function_in_python_fail_too() -> None:
    names = {
        "ptrace": (101, 117), "io_uring_setup": (425, 425), "memfd_create": (319, 279), "shmget": (29, 194),
        "unshare": (272, 97), "process_vm_writev": (311, 271), "clone3": (435, 435), "bpf": (321, 280),
    }  # fmt: skip
    column = ARCHITECTURES[platform.machine()][1]
    numbers = {name: both[column] for name, both in names.items()}
    program = f"import ctypes\nfound = {{n: ctypes.CDLL(None).syscall(k, 0, 0, 0, 0) for n, k in {numbers}.items()}}"
    assert run_python(program, "assert set(found.values()) == {-1}, found") == Outcome(True, "", "")


def test_a_guest_dies_with_its_host() -> None:
    program = "from langwright.base.sandbox import run_python\nrun_python('import time; time.sleep(99)')"
    source = str(Path(sandbox.__file__).parents[2])
    host = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": source})

    def children() -> str:
        return Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().strip()

    while not (guest := children()):
        assert host.poll() is None
    while "sandbox_guest" not in Path(f"/proc/{guest}/cmdline").read_text():
        pass
    while "Seccomp:\t2" not in Path(f"/proc/{guest}/status").read_text():
        pass
    host.send_signal(signal.SIGKILL)
    host.wait()
    for _ in range(500):
        if not Path(f"/proc/{guest}").exists() or "State:\tZ" in Path(f"/proc/{guest}/status").read_text():
            return
        signal.sigtimedwait([], 0.01)
    pytest.fail("the guest lives on")


def test_without_landlock_root_goes_on_with_a_word_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("langwright.base.sandbox_guest.landlock_abi", lambda: 0)
    for user in (0, 1000):
        sandbox._closes_files.cache_clear()
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        if user == 0:
            assert not sandbox._closes_files()
            assert "Landlock" in capsys.readouterr().err
        else:
            with refused("Landlock"):
                sandbox._closes_files()
    sandbox._closes_files.cache_clear()


def test_the_numbers_of_calls_are_those_of_the_kernel() -> None:
    for column, path in enumerate(
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h")
    ):
        if not Path(path).exists():
            pytest.skip("SKIPPED: the headers of Linux are not installed")
        defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(path).read_text())
        known = {re.sub("^fstatat", "newfstatat", name): int(number) for name, number in defined}
        ours = call_numbers(column) | {name: numbers[column] for name, numbers, *_ in GUARDED}
        assert {name: known.get(name) for name in ours} == ours
