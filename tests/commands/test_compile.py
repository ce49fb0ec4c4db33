"""pretrain --compile with toolchains that fail: at once, or at the first block, long after a first success."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TINY = ["--depth", "1", "--context", "32", "--batch-size", "4", "--vocabulary", "300", "--dtype", "float32"]
PLAIN = {
    "TORCHINDUCTOR_VEC_ISA_OK": "0",
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
"""Without trying what the machine's vectors can do, which takes half a minute of compiling."""
ALWAYS = "#!/bin/sh\nexit 1\n"
AT_THE_NORM = """#!/bin/sh
for word; do
    case "$word" in *.cpp) if grep -q sqrt "$word"; then echo no room left >&2; exit 1; fi ;; esac
done
exec {compiler} "$@"
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to break")
@pytest.mark.parametrize(
    ("script", "said"), [(ALWAYS, ""), (AT_THE_NORM, "no room left")], ids=["at once", "at the first block"]
)
def test_a_toolchain_that_fails_is_told_in_one_line(script: str, said: str, tmp_path: Path) -> None:
    text, compiler, out = tmp_path / "text.txt", tmp_path / "compiler", tmp_path / "out"
    text.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(300)))
    compiler.write_text(script.format(compiler=shutil.which("g++")))
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), **PLAIN}
    command = [sys.executable, "-m", "langwright", "pretrain", str(text), str(out), "--split", "0.9", *TINY]
    ended = subprocess.run(
        [*command, "--steps", "3", "--compile"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.rstrip("\n").splitlines()[-1]
    assert last.startswith("langwright pretrain: --compile: torch.compile does not work on this machine: ")
    assert last.endswith(f"{said}; leave it out")
    assert "Traceback" not in ended.stderr
    assert not (out / "model.safetensors").exists()
