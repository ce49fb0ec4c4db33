"""Processes of their own in which commands run and can be killed.

Each is forked from a server that has imported what fine-tuning needs and done nothing else, so that it begins at once.
"""

import multiprocessing
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from langwright.cli import main
from langwright.planning import machine

_SERVED = multiprocessing.get_context("forkserver")
_SERVED.set_forkserver_preload(
    ["langwright.cli", "langwright.base.arguments", "langwright.commands.finetune", "torch._inductor", "torch.optim"]
)  # torch imports its compiler at the first optimizer, for which it takes longer than for all the rest of a tiny run


def finish(arguments: list[str]) -> None:
    """Run a command to its end."""
    process = _started(arguments)
    process.join()
    assert process.exitcode == 0


def kill_at(step: int, arguments: list[str], out: Path) -> None:
    """Start a command and send it SIGKILL once its metrics have a line for so many steps."""
    process, metrics, deadline = _started(arguments), out / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < step:
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _started(arguments: list[str]) -> BaseProcess:
    process = _SERVED.Process(target=_run, args=(arguments,))
    process.start()
    return process


def _run(arguments: list[str]) -> None:
    machine.GEMM_SIDE["cpu"] = 64  # how fast the machine multiplies is told in the record, and takes longest to measure
    sys.exit(main(arguments))
