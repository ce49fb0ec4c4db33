"""Mutation testing: break the code on purpose, piece by piece, and list what no test notices.

usage: python tools/mutants.py [--minutes M] [--resume] ROOM ...

`mutmut` makes the mutants of a room's files and runs the tests that reach each of them. It works in .mutants/ROOM,
where --resume goes on when the minutes were not enough. It deletes no statement, so functions whose effect matters but
whose result nobody uses are listed here and left out one at a time.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("src", "tests", "tools", "docs", "recipes", "README.md", "pyproject.toml")
VARIABLE = "LANGWRIGHT_LEFT_OUT"


@dataclass(frozen=True)
class Room:
    """Files to mutate, below src/langwright; the tests that must notice; functions to leave out, as module:name."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    left_out: tuple[str, ...] = ()


ROOMS = {
    "objectives": Room(("objectives/*.py",), ("tests/objectives",)),
    "parts": Room(("parts/*.py",), ("tests/parts",)),
    "sampling": Room(("inference/sampling.py",), ("tests/inference/test_sampling.py",)),
    "training": Room(
        ("training/*.py",),
        ("tests/training",),
        (
            "langwright.training.checkpoints:Checkpoints._compare",
            "langwright.training.precision:Masters.publish",
            "torch:set_rng_state",
        ),
    ),
    "files": Room(
        ("base/files.py", "base/quantities.py"),
        ("tests/base/test_files.py", "tests/base/test_quantities.py"),
        ("os:fsync", "langwright.base.files:sync", "langwright.base.files:_sweep"),
    ),
    "text": Room(("text/*.py",), ("tests/text",)),
}


def main() -> int:
    """Mutate the chosen rooms; 0 when every one could be run."""
    parser = argparse.ArgumentParser(description="Break the code on purpose and list what no test notices.")
    parser.add_argument("rooms", nargs="+", choices=sorted(ROOMS), metavar="ROOM", help=", ".join(sorted(ROOMS)))
    parser.add_argument("--minutes", type=float, default=10, help="for each room")
    parser.add_argument("--resume", action="store_true", help="keep the results of the last run")
    arguments = parser.parse_args()
    for name in arguments.rooms:
        folder = ROOT / ".mutants" / name
        if not arguments.resume:
            shutil.rmtree(folder / "mutants", ignore_errors=True)
        prepare(folder, ROOMS[name])
        mutate(folder, arguments.minutes * 60)
        print(f"== {name}\n{summary(folder)}", flush=True)
        for function in ROOMS[name].left_out:
            print(f"{function} left out: {'noticed' if left_out(function, ROOMS[name]) else 'SURVIVED'}", flush=True)
    return 0


def prepare(folder: Path, room: Room) -> None:
    """A folder that looks like the project, with settings for mutmut."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LINKS[:-1]:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(ROOT / name)
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/langwright/{file}" for file in room.files],
        "also_copy": list(LINKS),
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": list(room.tests),
        # The words of an error are not asserted; zip's strictness and the place of a new tensor do not show on a CPU.
        "do_not_mutate_patterns": [r"raise \w+", r"\bstrict=True", r"\bdtype=.*\bdevice="],
        "use_git_change_detection": False,
    }
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    (folder / "pyproject.toml").write_text(f"{(ROOT / 'pyproject.toml').read_text()}\n[tool.mutmut]\n{lines}")


def mutmut(folder: Path, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """Start mutmut in a folder, with one thread a process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **options)


def mutate(folder: Path, seconds: float) -> None:
    """Run mutmut to its end or for so long; what it says goes to run.log."""
    with open(folder / "run.log", "w") as log:
        process = mutmut(folder, "run", start_new_session=True, stdout=log, stderr=log)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()


def summary(folder: Path) -> str:
    """The lines that each survivor changes, and the score, without mutants of wording, which no test asserts."""
    listed = mutmut(folder, "results", "--all", "true", stdout=subprocess.PIPE).communicate()[0]
    verdicts = dict(re.findall(r"^ +(\S+): (.+)$", listed, re.MULTILINE))
    counts, lines = Counter(verdicts.values()), []
    for name in [name for name, verdict in verdicts.items() if verdict in ("survived", "no tests")]:
        diff = re.findall(
            r"^[+-] .*", mutmut(folder, "show", name, stdout=subprocess.PIPE).communicate()[0], re.MULTILINE
        )
        if rewords("".join(diff[:1]), "".join(diff[1:])):
            counts[verdicts.pop(name)] -= 1
        else:
            lines += [f"{name}: {verdicts[name]}", *diff]
    tried = len(verdicts) - counts["not checked"]
    killed = counts["killed"] + counts["timeout"]
    return "\n".join([*lines, f"{killed} of {tried} mutants noticed; {counts['not checked']} not tried yet"])


def rewords(before: str, after: str) -> bool:
    """Whether a text of several words is what changed."""
    texts = zip(re.findall(r'"([^"]*)"', before), re.findall(r'"([^"]*)"', after), strict=False)
    return any(a != b and " " in a and a.lower() in b.lower() for a, b in texts)


def left_out(function: str, room: Room) -> bool:
    """Whether the room's tests notice that a function does nothing."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", VARIABLE: function, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "mutants", *room.tests]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode == 1


def resolve(function: str) -> tuple[Any, str]:
    """The object that holds a function written as module:name, and the function's own name."""
    module, _, path = function.partition(":")
    *owners, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for owner in owners:
        holder = getattr(holder, owner)
    return holder, name


def pytest_configure() -> None:
    """As a plugin of pytest: leave out the function that the environment names, before any test imports it."""
    if VARIABLE in os.environ:
        holder, name = resolve(os.environ[VARIABLE])
        assert callable(getattr(holder, name))
        setattr(holder, name, lambda *_, **__: None)


if __name__ == "__main__":
    sys.exit(main())
