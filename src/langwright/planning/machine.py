"""The machine at hand: what it is, and how fast it multiplies."""

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from langwright.base.errors import UserError
from langwright.parts.native import read_through

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GEMM_SIDE = {"cuda": 8192}
"""Of the square product that measures a device, elsewhere 2048, which neither fills a GPU nor hides its launch."""

CONTROL_GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/memory")
"""Where Linux bounds the memory of a container: version 2, and version 1."""

INSTRUCTIONS = (
    "avx2", "fma", "f16c", "avx512f", "avx512vbmi", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimd", "sve", "bf16", "i8mm",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """device: where models run. dtype: what they compute in. gemm_rate: FLOP/s of a large product in that dtype."""

    device: torch.device
    dtype: torch.dtype
    gemm_rate: float

    def describe(self) -> str:
        """One line for people."""
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        rate = f"{self.gemm_rate / 1e9:,.0f} GFLOP/s in {str(self.dtype).removeprefix('torch.')}"
        return f"{device_name(self.device)}{threads}, {rate}"


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" takes CUDA, then MPS, then the CPU. UserError when it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from None
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto" takes the faster of bfloat16 and float32 in a product on this device."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "mps":
        return torch.float32
    return max(DTYPES.values(), key=lambda dtype: gemm_rate(device, dtype, repeats=2))


def gemm_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of a product of two square matrices (2048 a side on a CPU), the median of several: the ceiling."""
    side, wait = GEMM_SIDE.get(device.type, 2048), torch.get_device_module(device).synchronize
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(repeats + 1):
        wait()
        began = time.perf_counter()
        a @ b
        wait()
        times.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(times[1:])


def read_bandwidth(size: int = 2**28, repeats: int = 8) -> float:
    """Bytes a second that all threads of the CPU read of memory, the best of several: the ceiling of decoding."""
    numbers, times = torch.ones(size // 8, dtype=torch.int64), []
    for _ in range(repeats):
        began = time.perf_counter()
        read_through(numbers)
        times.append(time.perf_counter() - began)
    return size / min(times)


def instruction_sets() -> list[str]:
    """Those of the CPU that matter here, by the names that Linux gives them; none where it does not tell."""
    if not os.path.exists("/proc/cpuinfo"):
        return []
    with open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith(("flags", "Features"))), "").split()
    return [name for name in INSTRUCTIONS if name in flags]


def measure(device: str = "auto", dtype: str = "auto", exact: bool = False) -> Machine:
    """Choose device and dtype and measure the ceiling.

    exact: what follows is to be reproducible; cuBLAS wants to know before its first product.
    """
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    chosen = choose_device(device)
    kind = choose_dtype(dtype, chosen)
    return Machine(chosen, kind, gemm_rate(chosen, kind))


def free_memory(device: torch.device) -> int:
    """Bytes of memory that a device has free; of a CPU without a count of the system's own, half of all there is."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as file:
            free = next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable")), free)
    return min([free, *(left for group in CONTROL_GROUPS if (left := _left_in(Path(group))) is not None)])


def _left_in(group: Path) -> int | None:
    """Bytes that a control group, as of a container, may still take; None without a limit. Its page cache counts."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            left = int((group / limit).read_text()) - int((group / used).read_text())
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
        return max(0, left + int(told.get("inactive_file", 0)))
    return None


def device_name(device: torch.device) -> str:
    """The device's name as its maker gives it, where that can be had."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    return f"{name} ({device.type})"
