"""Every start of the same command trains the same numbers: fresh processes of two threads, with others beside them."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STARTS, BESIDE = 100, 3
THREADS = {**os.environ, "OMP_NUM_THREADS": "2"}
# MKL's own routine (see langwright.parts), with the time between its two stores made long, on any x86 CPU.
WINDOW = """
#include <time.h>
int mkl_serv_intel_cpu_true(void) { return 1; }
static volatile int type = -1;
int mkl_vml_serv_cpu_detect(void) {
    struct timespec window = {0, 30000000};
    if (type != -1) return type;
    type = 9;
    nanosleep(&window, 0);
    return type = 5;
}
"""
TABLES = """
import sys, torch
if sys.argv[1] == "with": import langwright.parts
angles = torch.arange(256.0)[:, None] * 1e4 ** (-torch.arange(0, 64, 2).float() / 64)
first, second = angles.cos(), angles.cos()
print(torch.equal(first, second))
"""

# The machine's speed goes into the record alone, and takes longest to measure.
LANGWRIGHT = """
import sys
from langwright.planning import machine
machine.GEMM_SIDE["cpu"] = 64
from langwright.cli import main
sys.exit(main())
"""


def test_the_first_cosines_of_a_process_are_those_of_all_later_ones(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("SKIPPED FOR WANT OF A C COMPILER")
    (tmp_path / "window.c").write_text(WINDOW)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "window.so", tmp_path / "window.c"], check=True)

    def same(imported: str) -> set[str]:
        environment = {**THREADS, "LD_PRELOAD": str(tmp_path / "window.so")}
        command = [sys.executable, "-c", TABLES, imported]
        return {subprocess.check_output(command, env=environment, text=True).strip() for _ in range(8)}

    if same("without") == {"True"}:
        pytest.skip("torch is not built with an MKL that has the fault")
    assert same("with") == {"True"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_start_and_every_resume_ends_with_the_same_bytes(dtype: str, tmp_path: Path) -> None:
    text = tmp_path / "cats.txt"
    text.write_text("One cat ate a tuna.\nOne weird cat ate a human.\n" * 80)
    shape = ["--tokenizer", "bytes", "--depth", "1", "--context", "256", "--batch-size", "4", "--dtype", dtype]
    length = ["--steps", "4", "--save-every", "1", "--log-every", "1", "--sample-every", "0", "--split", "0.9"]

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", LANGWRIGHT, "pretrain", str(text), str(out), *shape, *length]
        return subprocess.Popen(command, env=THREADS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finished(number: int) -> str:
        """The hash of a run that was killed in the midst of its steps and started again; of whole runs two."""
        out = tmp_path / f"{number}"
        process, metrics = start(out), out / "metrics.jsonl"
        while number > 1 and process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < 2):
            time.sleep(0.002)
        if number > 1:
            process.kill()
        said = process.communicate()[0]
        assert process.returncode in (0, -signal.SIGKILL), said.decode()
        process = start(out)
        said = process.communicate()[0]
        assert process.returncode == 0, said.decode()
        made = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        shutil.rmtree(out)
        return made

    with ThreadPoolExecutor(BESIDE) as pool:
        assert len(set(pool.map(finished, range(STARTS // 4)))) == 1
