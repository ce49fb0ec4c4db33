"""The committed list of breakages fits the code, and the tool that applies it tells red from green."""

import subprocess
import sys
from pathlib import Path

import pytest

import mutants
from mutants import Mutant, check, read_mutants

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", read_mutants(ROOT), ids=lambda mutant: mutant.title)
def test_every_entry_fits_the_code(mutant: Mutant) -> None:
    assert check(mutant, ROOT) == []
    assert mutant.old != mutant.new
    for argument in mutant.tests.split(" -k ")[0].split():
        assert (ROOT / argument.split("::")[0]).exists(), argument


LIST = """
[[mutant]]
name = "{name}"
file = "src/half.py"
old = "{old}"
new = "{new}"
tests = "tests/test_half.py"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tiny project: one function, one test, and this tool."""
    for folder in ("src", "tools", "tests/mutants"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tools/mutants.py").write_text(Path(mutants.__file__).read_text())
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['src']\n")
    (tmp_path / "src/half.py").write_text("def half(n):\n    return n // 2  # down\n")
    (tmp_path / "tests/test_half.py").write_text("from half import half\n\n\ndef test():\n    assert half(4) == 2\n")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("n // 2", "n // 3", 0, "1 of 1 noticed"),
        ("n // 2", "-(-n // 2)", 1, "GREEN"),
        ("n // 2", "n //", 1, "BROKEN"),
        ("n * 2", "n", 2, "the old text occurs 0 times in src/half.py, not once"),
    ],
)
def test_verdicts(tree: Path, old: str, new: str, code: int, words: str) -> None:
    (tree / "tests/mutants/room.toml").write_text(LIST.format(name="one", old=old, new=new))
    before = (tree / "src/half.py").read_text()
    done = subprocess.run([sys.executable, "tools/mutants.py", "room/"], cwd=tree, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert (tree / "src/half.py").read_text() == before


def test_tests_that_fail_anyway_prove_nothing(tree: Path) -> None:
    (tree / "tests/mutants/room.toml").write_text(LIST.format(name="one", old="n // 2", new="n // 3"))
    (tree / "tests/test_half.py").write_text("def test():\n    assert False\n")
    done = subprocess.run([sys.executable, "tools/mutants.py"], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 2
    assert "fails before anything is broken" in done.stderr
