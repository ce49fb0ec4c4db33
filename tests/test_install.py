"""Setting up: what a machine with an old Python is told."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "install.sh"


@pytest.fixture
def old_python(tmp_path: Path) -> Path:
    """An interpreter that is too old, as far as the script can see."""
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.6\nexit 1\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("named", [True, False])
def test_an_old_python_is_refused_in_one_line(tmp_path: Path, old_python: Path, named: bool) -> None:
    command = ["/bin/sh", str(SCRIPT), str(tmp_path / "venv"), str(old_python) if named else ""]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "langwright needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9.6; install one and name it: make PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()
