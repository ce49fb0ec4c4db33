"""Kernels for the CPU at hand: native.cpp, compiled at first use and kept in the cache folder.

Where they cannot be had (no compiler, another system, LANGWRIGHT_KERNELS=torch) everything runs on PyTorch alone.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from langwright.base.files import cache_folder

SWITCH = "LANGWRIGHT_KERNELS"
"""The environment variable; "torch" keeps to PyTorch."""
SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-ffp-contract=off", "-fopenmp", "-fPIC")
"""No sum of floats may be reordered or contracted as the compiler likes: a row must not depend on its neighbours."""
SECONDS = 120
TAKEN = (torch.float32, torch.bfloat16)

_FUNCTIONS = {
    "attend_blocks": "p",
    "norm": "ppppfiiilli",
    "product_bf16": "ppppllli",
    "product_int8": "ppppillli",
    "product_int4": "pppppillllii",
    "read_through": "pli",
}
_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "i": ctypes.c_int, "f": ctypes.c_float}


@dataclass(frozen=True)
class Native:
    """The kernels, or why there are none.

    Args:
        library: the loaded kernels; None where PyTorch does everything.
        reason: why they run, or do not.
        compiler: what built them, or would.
        file: where they lie.
        vectors: whether they use AVX-512's products of bfloat16, and not only what the compiler makes of loops.
    """

    library: ctypes.CDLL | None
    reason: str
    compiler: str | None = None
    file: Path | None = None
    vectors: bool = False


@cache
def native() -> Native:
    """The kernels of this machine, built where they are not there yet (some seconds, once)."""
    if os.environ.get(SWITCH) == "torch":
        return Native(None, f"{SWITCH}=torch")
    if sys.platform != "linux" or sys.byteorder != "little":
        return Native(None, f"the kernels are built on Linux only, and this is {platform.system()}")
    wanted = os.environ.get("CXX") or "g++"
    compiler = shutil.which(wanted)
    if compiler is None:
        return Native(None, f"no compiler: {wanted} is not on the PATH")
    try:
        file = _build(compiler)
        try:
            library = _load(file)
        except (OSError, AttributeError):  # damaged since it was built
            file.unlink()
            library = _load(_build(compiler))
    except subprocess.CalledProcessError as error:
        told = (error.stderr or "").strip().splitlines() or [f"exit code {error.returncode}"]
        return Native(None, f"{compiler} failed: {told[0]}", compiler)
    except (OSError, RuntimeError, AttributeError, subprocess.TimeoutExpired) as error:  # no home folder, among others
        return Native(None, f"the kernels could not be built or loaded: {error}", compiler)
    return Native(library, "built for this machine", compiler, file, bool(library.vectors()))


def library() -> ctypes.CDLL | None:
    """The kernels, where there are any; never while a graph is traced, which could not look into them."""
    return None if torch.compiler.is_compiling() else native().library


def serves(*tensors: Tensor) -> ctypes.CDLL | None:
    """The kernels, where they take these tensors: of one dtype, float32 or bfloat16, on a CPU, without gradients."""
    dtype = tensors[0].dtype
    if (
        torch.is_grad_enabled()
        or dtype not in TAKEN
        or any(x.dtype != dtype or x.device.type != "cpu" for x in tensors)
    ):
        return None
    return library()


def read_through(numbers: Int64[Tensor, " numbers"]) -> None:
    """Read all of a tensor once, as fast as its memory allows."""
    kernels = native().library
    if kernels is None:
        numbers.view(torch.float32).amax()
    else:
        kernels.read_through(numbers.data_ptr(), len(numbers), torch.get_num_threads())


def _build(compiler: str) -> Path:
    """The compiled kernels; another source, compiler or processor has a file of its own."""
    version = os.stat(compiler)
    told = (SOURCE.read_bytes(), FLAGS, os.path.realpath(compiler), version.st_size, version.st_mtime_ns, _processor())
    file = cache_folder() / "kernels" / f"{hashlib.sha256(repr(told).encode()).hexdigest()[:24]}.so"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder_is = file.parent.stat()
    if folder_is.st_uid != os.getuid() or folder_is.st_mode & 0o022:
        raise OSError(f"{file.parent} is another user's, or others may write there")
    if file.exists():
        return file
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        compiled, linked = Path(folder) / "native.o", Path(folder) / "native.so"
        # Not linked with -fopenmp: the threads are those of the OpenMP that PyTorch has loaded, not a second set.
        for step in ((*FLAGS, "-c", SOURCE, "-o", compiled), ("-shared", compiled, "-o", linked)):
            subprocess.run([compiler, *step], check=True, capture_output=True, text=True, timeout=SECONDS)
        os.replace(linked, file)  # whole, or not at all, whoever builds at the same time
    return file


def _processor() -> str:
    """What decides the instructions that -march=native stands for."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    return "".join(line for line in lines if line.startswith(("model", "flags", "Features", "CPU")))


def _load(file: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(file))
    for name, types in _FUNCTIONS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = [_TYPES[kind] for kind in types], None
    return found


def norm(
    kernels: ctypes.CDLL,
    x: Float[Tensor, "*batch dim"],
    weight: Float[Tensor, " dim"] | None,
    bias: Float[Tensor, " dim"] | None,
    eps: float,
    rms: bool,
    plus_one: bool,
) -> Float[Tensor, "*batch dim"]:
    """The norm over the last dimension (`norms.Norm`); weight and bias in the dtype of x."""
    x, dim = x.contiguous(), x.shape[-1]
    y = torch.empty_like(x)
    scale, shift = (None if one is None else one.data_ptr() for one in (weight, bias))
    kernels.norm(
        scale, shift, x.data_ptr(), y.data_ptr(), eps, rms, plus_one, x.dtype == torch.float32,
        x.numel() // dim, dim, torch.get_num_threads(),
    )  # fmt: skip
    return y


def product_bf16(
    kernels: ctypes.CDLL, x: Float[Tensor, "rows inputs"], weight: Float[Tensor, "outputs inputs"], bias: Tensor | None
) -> Float[Tensor, "rows outputs"]:
    """x Wᵀ + b of contiguous tensors in bfloat16."""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    y = x.new_empty(rows, outputs)
    shift = None if bias is None else bias.data_ptr()
    threads = torch.get_num_threads()
    kernels.product_bf16(weight.data_ptr(), shift, x.data_ptr(), y.data_ptr(), rows, inputs, outputs, threads)
    return y


def product_int8(
    kernels: ctypes.CDLL, x: Float[Tensor, "rows inputs"], tiles: UInt8[Tensor, "tiles pairs 128"], absmax: Tensor
) -> Float[Tensor, "rows outputs"]:
    """x Wᵀ of a weight in int8 (`tiles.tile_int8`), with the largest weight of each output in float32."""
    (rows, inputs), outputs, x = x.shape, len(absmax), x.contiguous()
    y = x.new_empty(rows, outputs)
    kernels.product_int8(
        tiles.data_ptr(), absmax.data_ptr(), x.data_ptr(), y.data_ptr(),
        x.dtype == torch.float32, rows, inputs, outputs, torch.get_num_threads(),
    )  # fmt: skip
    return y


def product_int4(
    kernels: ctypes.CDLL,
    x: Float[Tensor, "rows inputs"],
    tiles: UInt8[Tensor, "tiles fours 128"],
    steps: Float[Tensor, "tiles groups steps 64"],
    table: Float[Tensor, "16"],
    outputs: int,
) -> Float[Tensor, "rows outputs"]:
    """x Wᵀ of a weight of 16 levels (`tiles.tile_int4`). table: the levels, in bfloat16.

    steps: scales and zeros of groups in bfloat16, or scales alone in float32.
    """
    (rows, inputs), x = x.shape, x.contiguous()
    y = x.new_empty(rows, outputs)
    kernels.product_int4(
        tiles.data_ptr(), steps.data_ptr(), table.data_ptr(), x.data_ptr(), y.data_ptr(), x.dtype == torch.float32,
        rows, inputs, outputs, steps.shape[1], steps.shape[2] == 2, torch.get_num_threads(),
    )  # fmt: skip
    return y


POINTERS = ("q", "k", "v", "out", "keys", "values", "tables", "starts", "counts", "allowed", "added")
SIZES = ("rows", "heads", "kv_heads", "time", "width", "size", "longest")


class _Attend(ctypes.Structure):
    """`Attend` of native.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int64 * 3) for name in ("allowed_by", "added_by")),
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
        *((name, ctypes.c_int32) for name in ("floats", "threads")),
    )


Mask = Shaped[Tensor, "#rows #heads #time keys"]


def attend_blocks(
    kernels: ctypes.CDLL,
    q: Float[Tensor, "rows heads time width"],
    k: Float[Tensor, "rows kv_heads new width"],
    v: Float[Tensor, "rows kv_heads new width"],
    pool: tuple[Float[Tensor, "blocks kv_heads size width"], Float[Tensor, "blocks kv_heads size width"]],
    where: tuple[Int64[Tensor, "rows longest"], Int64[Tensor, "rows 1"], Int64[Tensor, "rows 1"]],
    scale: float,
    softcap: float | None = None,
    seen: tuple[Mask | None, Mask | None] = (None, None),
) -> Float[Tensor, "rows heads time width"]:
    """Keep new keys and values in blocks, and mix the values of all that a row's blocks hold.

    Args:
        kernels: the native ones.
        q, k, v: of the new tokens, in the dtype of the blocks.
        pool: blocks of keys, and of values.
        where: the blocks of each row, which token of its text the first new one is, and how many there are, in its
            first columns.
        scale: multiplies the products.
        softcap: of the products; None for none.
        seen: which keys a query may see, and what is added to the scores; None for all, and nothing.
    """
    rows, heads, time, width = q.shape
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    (keys, values), (tables, starts, counts), (allowed, added), out = pool, where, seen, torch.empty_like(q)
    masks: list[Tensor | None] = []
    for mask in (allowed, None if added is None else added.float()):
        wide = None if mask is None else mask.expand(rows, heads, time, -1)
        masks.append(wide if wide is None or wide.stride(3) == 1 else wide.contiguous())
    told = _Attend(
        *(x.data_ptr() for x in (q, k, v, out, keys, values, tables, starts, counts)),
        *(None if x is None else x.data_ptr() for x in masks),
        *((0, 0, 0) if x is None else x.stride()[:3] for x in masks),
        rows, heads, keys.shape[1], time, width, keys.shape[2], tables.shape[1],
        scale, softcap or 0.0, q.dtype == torch.float32, torch.get_num_threads(),
    )  # fmt: skip
    kernels.attend_blocks(ctypes.byref(told))
    return out.transpose(1, 2)
