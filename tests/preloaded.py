"""Python processes that begin at once: forked from a server that has imported what commands need, and nothing else.

Run as a program this file is the server: `python preloaded.py SOCKET`. A client sends its arguments (those of
`langwright`, or -c and a program), folder, environment and streams, is sent the exit code, and takes the process along
when it is killed.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CLIENT = """
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({path!r})
message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(connection, [len(message).to_bytes(4, "big")], [0, 1, 2])
connection.sendall(message)
sys.exit(int(connection.recv(9) or b"1"))
"""


@contextmanager
def preloaded() -> Iterator[str]:
    """While this lasts, the program it gives runs its arguments in a forked process (`python -c PROGRAM ...`)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a socket must be short
        path = os.path.join(folder, "socket")
        with subprocess.Popen([sys.executable, __file__, path]) as server:
            try:
                while not os.path.exists(path):
                    assert server.poll() is None
                    time.sleep(0.02)
                yield CLIENT.format(path=path)
            finally:
                server.kill()


def serve(path: str) -> None:
    """Fork a process for each client."""

    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch._inductor.config  # noqa: F401 (with the first optimizer; longer than the rest of a tiny run)

    from langwright.cli import main
    from langwright.planning import machine
    from processes import rate

    machine.gemm_rate = rate
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".partial")
    listener.listen(8)
    os.rename(path + ".partial", path)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(connection, main)
        connection.close()


def answer(connection: socket.socket, main: Any) -> None:
    """Be the process that a client asked for."""
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as file:
        argv, folder, environment = json.loads(file.read(int.from_bytes(size, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for name, number in (("stdout", 1), ("stderr", 2)):  # the server's may have been a file, in which one can seek
        setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
    sys.path[0] = ""  # of -c and -m, in place of the folder of this file
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=die_with, args=(connection,), daemon=True).start()
    try:
        if argv[:1] == ["-c"]:
            sys.argv = ["-c"]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
            code = 0
        else:
            code = main(argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    os._exit(code)


def die_with(connection: socket.socket) -> None:
    """End this process when its client is no more."""
    if not connection.recv(1):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1])
