"""Processes of their own in which commands run and can be killed.

Each is forked from a server that has imported what fine-tuning needs and done nothing else, so that it begins at once.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from langwright.cli import main
from langwright.planning import machine

_SERVED = multiprocessing.get_context("forkserver")
_SERVED.set_forkserver_preload(
    ["langwright.cli", "langwright.base.arguments", "langwright.commands.finetune", "torch._inductor", "torch.optim"]
)  # torch imports its compiler at the first optimizer, for which it takes longer than for all the rest of a tiny run


def rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s in place of `planning.machine.gemm_rate`."""
    return 1e11 if dtype == torch.float32 else 5e10


def survives_kills(
    command: Callable[[str], list[str]], folder: Path, steps: Sequence[int], more: Sequence[str] = ()
) -> dict[str, Any]:
    """A run that is killed at each of `steps` and run again ends with the bytes of a run that nothing disturbed.

    command: the arguments that train into a folder of this name in `folder`. more: what the undisturbed run is given
    besides, and must not change it. Returns the record of the run that was killed.
    """
    _finish([*command("whole"), *more])
    for step in steps:
        kill_at(step, command("killed"), folder / "killed")
    assert not (folder / "killed" / "langwright.json").exists()
    _finish(command("killed"))
    whole, killed = (
        {file.name: file.read_bytes() for file in (folder / name).glob("*.safetensors")} for name in ("whole", "killed")
    )
    assert whole
    assert whole == killed
    record: dict[str, Any] = json.loads((folder / "killed" / "langwright.json").read_text())
    resumed = [event["step"] for event in record["events"] if event["event"] == "resumed"]
    assert resumed
    assert all(step > 0 for step in resumed)
    return record


def _finish(arguments: list[str]) -> None:
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


def kills_itself(arguments: list[str]) -> None:
    """Run a command in which something sends SIGKILL to its own process."""
    process = _started(arguments)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _started(arguments: list[str]) -> BaseProcess:
    process = _SERVED.Process(target=_run, args=(arguments,))
    process.start()
    return process


def _run(arguments: list[str]) -> None:
    machine.gemm_rate = rate
    sys.exit(main(arguments))


def on_ranks(
    function: Callable[..., Any], *arguments: Any, world: int = 2, stop: Callable[[], bool] | None = None
) -> list[int]:
    """Call a function in as many processes as `torchrun` would start, and give their exit codes.

    stop: when it turns true, the last of them gets SIGTERM.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        _SERVED.Process(target=_on_rank, args=(shared | {"RANK": str(i)}, function, arguments)) for i in range(world)
    ]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + 120
    while stop is not None and not stop():
        assert ranks[-1].is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    if stop is not None:
        ranks[-1].terminate()
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]  # type: ignore[misc]


def _on_rank(environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    function(*arguments)


def command(arguments: list[str], errors: Path) -> None:
    """Run a command; what each rank says on stderr is kept."""
    sys.stderr = (errors / os.environ["RANK"]).open("w", buffering=1)
    _run(arguments)
