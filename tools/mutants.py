"""Break the code on purpose and see that the tests notice.

usage: python tools/mutants.py [WORD ...]

Each entry of tests/mutants/*.toml replaces one text, which must occur exactly once, in a copy of the tree, and runs
the tests it names there. They must fail. WORDs choose entries by room or by part of their name.

    [[mutant]]
    name = "window-off-by-one"
    file = "src/langwright/data/windows.py"
    old = "start + length"
    new = "start + length + 1"
    tests = "tests/data/test_windows.py"
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
AT_A_TIME = 2
SECONDS = 900
PARTS = ("src", "tests", "tools", "docs", "recipes", "pyproject.toml", "README.md")
NOTICED, UNNOTICED, NOT_RUN = "red", "GREEN: no test noticed", "BROKEN: the tests did not run"


@dataclass(frozen=True)
class Mutant:
    """One breakage: `old` becomes `new` in `file`, and `tests` (pytest arguments) must fail."""

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def title(self) -> str:
        """Room and name."""
        return f"{self.room}/{self.name}"


def main(words: list[str]) -> int:
    """Run the chosen mutants; 0 when every one turned a test red."""
    mutants = [mutant for mutant in read_mutants(ROOT) if not words or any(word in mutant.title for word in words)]
    problems = [problem for mutant in mutants for problem in check(mutant, ROOT)]
    if problems or not mutants:
        print("\n".join(problems) or "no such mutant", file=sys.stderr)
        return 2
    with copies(ROOT) as trees, ThreadPoolExecutor(AT_A_TIME) as pool:
        suites = sorted({mutant.tests for mutant in mutants})
        print(f"{len(mutants)} mutants; first the {len(suites)} test sets as they are", flush=True)
        sound = list(pool.map(lambda suite: run(suite, trees), suites))
        for suite, (code, output) in zip(suites, sound, strict=True):
            if code != 0:
                print(f"{output}\n{suite}: fails before anything is broken", file=sys.stderr)
                return 2
        results = list(pool.map(lambda mutant: verdict(mutant, trees), mutants))
    bad = sum(result != NOTICED for result in results)
    print(f"{len(results) - bad} of {len(results)} noticed")
    return 1 if bad else 0


def read_mutants(root: Path) -> list[Mutant]:
    """Every entry of the committed list."""
    return [
        Mutant(room=path.stem, **entry)
        for path in sorted(root.glob("tests/mutants/*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    ]


def check(mutant: Mutant, root: Path) -> list[str]:
    """What is wrong with the entry itself."""
    path = root / mutant.file
    if not path.is_file():
        return [f"{mutant.title}: there is no file {mutant.file}"]
    count = path.read_text(encoding="utf-8").count(mutant.old)
    return [] if count == 1 else [f"{mutant.title}: the old text occurs {count} times in {mutant.file}, not once"]


@contextmanager
def copies(root: Path) -> Iterator["Queue[Path]"]:
    """As many copies of the tree as run at a time; the tree itself is never touched."""
    trees: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory(prefix="langwright-mutants-") as folder:
        for number in range(AT_A_TIME):
            tree = Path(folder) / str(number)
            tree.mkdir()
            for part in PARTS:
                if (root / part).is_dir():
                    shutil.copytree(root / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
                elif (root / part).is_file():
                    shutil.copy(root / part, tree / part)
            trees.put(tree)
        yield trees


def verdict(mutant: Mutant, trees: "Queue[Path]") -> str:
    """Apply one mutant, run its tests, take it back; say what came of it."""
    tree = trees.get()
    path = tree / mutant.file
    sound = path.read_text(encoding="utf-8")
    try:
        path.write_text(sound.replace(mutant.old, mutant.new), encoding="utf-8")
        code, output = pytest(mutant.tests, tree)
    finally:
        path.write_text(sound, encoding="utf-8")
        trees.put(tree)
    result = {0: UNNOTICED, 1: NOTICED}.get(code, NOT_RUN)
    print(f"{mutant.title:50} {result}" + (f"\n{output}" if result == NOT_RUN else ""), flush=True)
    return result


def run(suite: str, trees: "Queue[Path]") -> tuple[int, str]:
    """A test set on the unbroken code."""
    tree = trees.get()
    try:
        return pytest(suite, tree)
    finally:
        trees.put(tree)


def pytest(suite: str, tree: Path) -> tuple[int, str]:
    """Run tests in a copy: exit code (1 when tests failed, or never ended) and output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *suite.split()]
    # Without bytecode: two mutants of one size within one second would share a cached file.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, "the tests never ended"
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
