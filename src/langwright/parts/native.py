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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from langwright.base.files import cache_folder
from langwright.parts.kept import Parts

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
    "products": "plpilli",
    "read_through": "pli",
    "rotate": "ppppppllii",
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
    if torch.is_grad_enabled() or dtype not in TAKEN:
        return None
    for x in tensors:
        if x.dtype != dtype or not x.is_cpu:
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


Form = Literal["bfloat16", "int8", "int4", "levels"]
_FORMS = {"bfloat16": 0, "int8": 1, "int4": 2, "levels": 3}


class Factor(ctypes.Structure):
    """A weight that rows are multiplied with (`Factor` of native.cpp). It holds no tensor: keep them alive."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "steps", "table", "bias", "y")),
        ("outputs", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("form", ctypes.c_int32),
    )


def factor(
    form: Form,
    weight: Tensor,
    outputs: int,
    steps: Tensor | None = None,
    table: Float[Tensor, "16"] | None = None,
    bias: Float[Tensor, " outputs"] | None = None,
) -> Factor:
    """A weight as native code finds it; all tensors are contiguous.

    Args:
        form: bfloat16 as it lies, [outputs, inputs], or the codes of `tiles.tile_int8` or `tile_int4`: integers, or
            other levels.
        weight: the numbers or codes.
        outputs: rows of the weight.
        steps: the largest weight of each output of int8, in float32; of 4 bits [tiles, groups, steps, 64], scales and
            zeros of integers in bfloat16, scales alone of other levels in float32.
        table: the levels of 4-bit codes, in bfloat16.
        bias: in bfloat16, beside a weight in bfloat16.
    """
    second, third, fourth = (0 if one is None else one.data_ptr() for one in (steps, table, bias))
    groups = steps.shape[1] if steps is not None and steps.ndim == 4 else 1
    return Factor(weight.data_ptr(), second, third, fourth, 0, outputs, groups, _FORMS[form])


def products(
    kernels: ctypes.CDLL, x: Float[Tensor, "rows inputs"], factors: Sequence[Factor]
) -> list[Float[Tensor, "rows outputs"]]:
    """x Wᵀ of each factor, in the dtype of x: bfloat16, or float32 where no factor is of that form."""
    x, (rows, inputs), found = x.contiguous(), x.shape, []
    for one in factors:
        y = x.new_empty(rows, one.outputs)
        one.y = y.data_ptr()
        found.append(y)
    told = (Factor * len(factors))(*factors)
    floats, threads = x.dtype == torch.float32, torch.get_num_threads()
    kernels.products(ctypes.addressof(told), len(factors), x.data_ptr(), floats, rows, inputs, threads)
    return found


def rotate(
    kernels: ctypes.CDLL,
    x: Float[Tensor, "batch heads time width"],
    cos: Float[Tensor, "#batch 1 time turned"],
    sin: Float[Tensor, "#batch 1 time turned"],
    interleaved: bool,
) -> Float[Tensor, "batch heads time width"]:
    """`positions.rotate`; x with neighbours in the last dimension, tables contiguous, all of one dtype."""
    batch, heads, time, width = x.shape
    y, turned = x.new_empty(batch, time, heads, width), cos.shape[-1]
    kernels.rotate(
        x.data_ptr(), cos.data_ptr(), sin.data_ptr(), y.data_ptr(), (ctypes.c_int64 * 3)(*x.stride()[:3]),
        (ctypes.c_int64 * 4)(*x.shape), turned, 0 if len(cos) == 1 else time * turned, interleaved,
        x.dtype == torch.float32,
    )  # fmt: skip
    return y.transpose(1, 2)


POINTERS = (
    "q", "k", "v", "out", "keys", "values", "key_steps", "value_steps", "tables", "starts", "counts",
    "allowed", "added",
)  # fmt: skip
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
    pool: tuple[Parts, Parts],
    where: tuple[Int64[Tensor, "rows longest"], Int64[Tensor, "rows 1"], Int64[Tensor, "rows 1"]],
    scale: float,
    softcap: float | None = None,
    seen: tuple[Mask | None, Mask | None] = (None, None),
) -> Float[Tensor, "rows heads time width"]:
    """Keep new keys and values in blocks, and mix the values of all that a row's blocks hold.

    Args:
        kernels: the native ones.
        q, k, v: of the new tokens, in the dtype of the blocks unless these are in 8 bits.
        pool: blocks of keys, and of values [blocks, kv_heads, size, width]; in 8 bits with their steps (`kept.Int8`).
        where: the blocks of each row, which token of its text the first new one is, and how many there are, in its
            first columns.
        scale: multiplies the products.
        softcap: of the products; None for none.
        seen: which keys a query may see, and what is added to the scores; None for all, and nothing.
    """
    rows, heads, time, width = q.shape
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    (tables, starts, counts), (allowed, added), out = where, seen, torch.empty_like(q)
    (keys, *key_steps), (values, *value_steps) = pool
    masks: list[Tensor | None] = []
    for mask in (allowed, None if added is None else added.float()):
        wide = None if mask is None else mask.expand(rows, heads, time, -1)
        masks.append(wide if wide is None or wide.stride(3) == 1 else wide.contiguous())
    told = _Attend(
        *(x.data_ptr() for x in (q, k, v, out, keys, values)),
        *(steps[0].data_ptr() if steps else None for steps in (key_steps, value_steps)),
        *(x.data_ptr() for x in (tables, starts, counts)),
        *(None if x is None else x.data_ptr() for x in masks),
        *((0, 0, 0) if x is None else x.stride()[:3] for x in masks),
        rows, heads, keys.shape[1], time, width, keys.shape[2], tables.shape[1],
        scale, softcap or 0.0, q.dtype == torch.float32, torch.get_num_threads(),
    )  # fmt: skip
    kernels.attend_blocks(ctypes.byref(told))
    return out.transpose(1, 2)
